"""The kernels as operators of torch: opaque to `torch.compile` and `torch.export`, with fake kernels, no gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_INPUTS = "Tensor prior_valid, Tensor gt_boxes, Tensor gt_valid"


@torch.library.custom_op(
    "codetr_kernels::max_iou_assign",
    mutates_args=(),
    schema=f"(Tensor priors, {_INPUTS}, float positive, float negative, float? low_quality) -> Tensor",
)
def max_iou_assign(
    priors: Tensor,
    prior_valid: Tensor,
    gt_boxes: Tensor,
    gt_valid: Tensor,
    positive: float,
    negative: float,
    low_quality: float | None,
) -> Tensor:
    """`codetr_kernels.assigners.max_iou_assign` by the Triton kernels."""
    from codetr_kernels.assigners.triton import launch

    scene = launch.Scene.of(priors, prior_valid, gt_boxes, gt_valid)
    return launch.max_iou(scene, positive=positive, negative=negative, low_quality=low_quality)


@torch.library.custom_op(
    "codetr_kernels::atss_assign",
    mutates_args=(),
    schema=f"(Tensor priors, {_INPUTS}, SymInt[] sides, int[] strides, float offset, Tensor? sizes, int topk, "
    "float margin) -> Tensor",
)
def atss_assign(
    priors: Tensor,
    prior_valid: Tensor,
    gt_boxes: Tensor,
    gt_valid: Tensor,
    sides: Sequence[int],
    strides: Sequence[int],
    offset: float,
    sizes: Tensor | None,
    topk: int,
    margin: float,
) -> Tensor:
    """`codetr_kernels.assigners.atss_assign` by the Triton kernels. sides: height and width of each level in turn."""
    from codetr_kernels.assigners.triton import launch

    scene = launch.Scene.of(priors, prior_valid, gt_boxes, gt_valid)
    place = launch.Place(tuple(sides), tuple(strides), offset, sizes)
    return launch.atss(scene, place, topk=topk, margin=margin)


@torch.library.custom_op(
    "codetr_kernels::fcos_assign",
    mutates_args=(),
    schema=f"(Tensor points, {_INPUTS}, SymInt[] level_sizes, float[] strides, float[] low, float[] high, "
    "float? radius) -> Tensor",
)
def fcos_assign(
    points: Tensor,
    prior_valid: Tensor,
    gt_boxes: Tensor,
    gt_valid: Tensor,
    level_sizes: Sequence[int],
    strides: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    radius: float | None,
) -> Tensor:
    """`codetr_kernels.assigners.fcos_assign` by the Triton kernel."""
    from codetr_kernels.assigners.triton import launch

    scene = launch.Scene.of(points, prior_valid, gt_boxes, gt_valid)
    levels = launch.Levels(tuple(level_sizes), tuple(strides), tuple(low), tuple(high))
    return launch.fcos(scene, levels, radius=radius)


@max_iou_assign.register_fake
@atss_assign.register_fake
@fcos_assign.register_fake
def _(priors: Tensor, prior_valid: Tensor, *settings: object) -> Tensor:
    return torch.empty_like(prior_valid, dtype=torch.int64)


@torch.library.custom_op(
    "codetr_kernels::paa_separate", mutates_args=(), schema="(Tensor losses, Tensor counted) -> Tensor"
)
def separate(losses: Tensor, counted: Tensor) -> Tensor:
    """`separate_reference` by the Triton kernel."""
    from codetr_kernels.assigners.triton import launch

    return launch.separate(losses, counted)


@separate.register_fake
def _(losses: Tensor, counted: Tensor) -> Tensor:
    return torch.empty_like(counted)
