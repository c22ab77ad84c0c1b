"""The cost of matching queries to objects, as DETR's Hungarian matching has it: contract and dispatch.

Sources: Carion et al., DETR, arXiv 2005.12872, equation 1; the focal class cost: Zhu et al., Deformable DETR, arXiv
2010.04159.

Dimension key: L decoder layers, B images, N queries, K classes, M objects (padded), P = L * B problems.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from codetr_kernels.backend import runs_triton
from codetr_kernels.matching_cost import op
from codetr_kernels.matching_cost.reference import INVALID_COST, matching_cost_reference

__all__ = ["INVALID_COST", "matching_cost", "matching_cost_reference"]

CLASS_COSTS = ("focal", "softmax")


def matching_cost(
    logits: Tensor,
    boxes: Tensor,
    labels: Tensor,
    target_boxes: Tensor,
    num_objects: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    class_cost: Literal["focal", "softmax"] = "focal",
    class_weight: float,
    l1_weight: float,
    giou_weight: float,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """class_weight * class cost + l1_weight * L1 distance - giou_weight * GIoU of every object and query.

    logits: (L, B, N, K), K >= 1. boxes: (L, B, N, 4) cxcywh in units of the image, as target_boxes: (B, M, 4).
    labels: (B, M) int64; outside 0 to K - 1 the nearest class is read. num_objects: (B,) integers on the device of
    the logits, at most M of which count; default M each. valid: (B, N) bool, queries that may be matched; default all.
    Returns (L * B, M, N), layer after layer, float32 (float64 where an input is), computed in that type, without a
    graph. Rows from `num_objects` on are undefined: what the memory held, or numbers made from the padding.

    class_cost: "focal", the focal loss of a yes less that of a no, by a sigmoid, with alpha and gamma; "softmax", minus
    the probability, K counting the class of no object, which no label names. A box without width or height has area 0;
    unions and hulls have at least 1e-7. The cost of a query that is not valid is `INVALID_COST` (16384), far above
    that of others: it is matched where nothing else is left, and that match means none. Inputs that are not finite give
    costs that are not finite.

    Neither the logits of a slice of all queries nor anything of size (N, K) or (M, N, 4) is copied by the kernels.
    `which_backend` says whether they run or PyTorch's operations.

    Raises: ValueError for an unknown class cost, shapes or types that do not fit, or several devices.
    """
    _check(logits, boxes, labels, target_boxes, num_objects, valid)
    if class_cost not in CLASS_COSTS:
        raise ValueError(f'class_cost must be "focal" or "softmax", got {class_cost!r}')
    logits, boxes, target_boxes = logits.detach(), boxes.detach(), target_boxes.detach()
    if runs_triton(logits, boxes, target_boxes):
        weights = (class_weight, l1_weight, giou_weight, alpha, gamma)
        return op.matching_cost(logits, boxes, labels, target_boxes, num_objects, valid, class_cost, *weights)
    return matching_cost_reference(
        logits,
        boxes,
        labels,
        target_boxes,
        num_objects,
        valid,
        class_cost=class_cost,
        class_weight=class_weight,
        l1_weight=l1_weight,
        giou_weight=giou_weight,
        alpha=alpha,
        gamma=gamma,
    )


def _check(
    logits: Tensor,
    boxes: Tensor,
    labels: Tensor,
    target_boxes: Tensor,
    num_objects: Tensor | None,
    valid: Tensor | None,
) -> None:
    if logits.ndim != 4 or logits.shape[3] < 1:
        raise ValueError(f"logits must be (L, B, N, K) with K >= 1, got {tuple(logits.shape)}")
    _, batch, queries, _ = logits.shape
    if labels.ndim != 2 or labels.shape[0] != batch or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 (B, M), B = {batch}, got {labels.dtype} {tuple(labels.shape)}")
    for name, given, expected in (
        ("boxes", boxes, (*logits.shape[:3], 4)),
        ("target_boxes", target_boxes, (*labels.shape, 4)),
    ):
        if given.shape != expected:
            raise ValueError(f"{name} must be {tuple(expected)}, got {tuple(given.shape)}")
    if num_objects is not None and (
        num_objects.shape != (batch,) or num_objects.dtype not in (torch.int32, torch.int64)
    ):
        raise ValueError(
            f"num_objects must be int (B,), B = {batch}, got {num_objects.dtype} {tuple(num_objects.shape)}"
        )
    if valid is not None and (valid.shape != (batch, queries) or valid.dtype != torch.bool):
        raise ValueError(f"valid must be bool {(batch, queries)}, got {valid.dtype} {tuple(valid.shape)}")
    if not all(tensor.is_floating_point() for tensor in (logits, boxes, target_boxes)):
        found = ", ".join(str(tensor.dtype) for tensor in (logits, boxes, target_boxes))
        raise ValueError(f"logits, boxes and target_boxes must be floating-point, got {found}")
    tensors = (logits, boxes, labels, target_boxes, num_objects, valid)
    devices = {str(tensor.device) for tensor in tensors if tensor is not None}
    if len(devices) > 1:
        raise ValueError(f"one device needed, got {', '.join(sorted(devices))}")
