"""The kernels as an operator of torch: opaque to `torch.compile` and `torch.export`. It has no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from codetr_kernels.matching_cost.reference import compute_dtype


@torch.library.custom_op("codetr_kernels::matching_cost", mutates_args=())
def matching_cost(
    logits: Tensor,
    boxes: Tensor,
    labels: Tensor,
    target_boxes: Tensor,
    num_objects: Tensor | None,
    valid: Tensor | None,
    class_cost: str,
    class_weight: float,
    l1_weight: float,
    giou_weight: float,
    alpha: float,
    gamma: float,
) -> Tensor:
    """`codetr_kernels.matching_cost` by the Triton kernels."""
    from codetr_kernels.matching_cost.triton import launch

    settings = launch.Settings(class_cost, class_weight, l1_weight, giou_weight, alpha, gamma)
    return launch.matching_cost(launch.Problem(logits, boxes, labels, target_boxes, num_objects, valid), settings)


@matching_cost.register_fake
def _(
    logits: Tensor,
    boxes: Tensor,
    labels: Tensor,
    target_boxes: Tensor,
    num_objects: Tensor | None,
    valid: Tensor | None,
    class_cost: str,
    class_weight: float,
    l1_weight: float,
    giou_weight: float,
    alpha: float,
    gamma: float,
) -> Tensor:
    layers, batch, queries, _ = logits.shape
    return logits.new_empty(layers * batch, labels.shape[1], queries, dtype=compute_dtype(logits, boxes, target_boxes))
