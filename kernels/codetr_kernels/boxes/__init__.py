"""Overlaps of pairs of boxes, and losses of aligned boxes: contract and dispatch.

Boxes are (..., 4), corners `xyxy` or centre, width, height `cxcywh`. What a degenerate box counts as, and the bounds on
what divides, are in `codetr_kernels.boxes.reference`.

Dimension key: N and M boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codetr_kernels.backend import runs_triton
from codetr_kernels.boxes import checks, op
from codetr_kernels.boxes.reference import (
    BoxFormat,
    Kind,
    box_loss_reference,
    pairwise_giou_reference,
    pairwise_iou_reference,
)

__all__ = [
    "BoxFormat",
    "box_loss_reference",
    "ciou_loss",
    "diou_loss",
    "giou_loss",
    "iou_loss",
    "pairwise_giou",
    "pairwise_giou_reference",
    "pairwise_iou",
    "pairwise_iou_reference",
]

_PAIR, _ALIGNED = ("a", "b"), ("prediction", "target")


def pairwise_iou(a: Tensor, b: Tensor, *, box_format: BoxFormat = "xyxy") -> Tensor:
    """IoU (..., N, M) of every pair of boxes (..., N, 4) and (..., M, 4), whose other dimensions broadcast.

    Returns float32, or float64 where an input is. The numbers are those of the reference to the last bit, so a box
    overlaps itself by exactly 1. Where an input requires a gradient, the reference runs.

    Raises: ValueError for what are not boxes, shapes that do not broadcast, or tensors on two devices.
    """
    checks.check(a, b, names=_PAIR, box_format=box_format, least_dims=2)
    batch = checks.broadcast_shape(a, b, names=_PAIR, trailing=2)
    if _takes_kernel(a, b):
        return _pairwise(a, b, batch, general=False, box_format=box_format)
    return pairwise_iou_reference(a, b, box_format=box_format)


def pairwise_giou(a: Tensor, b: Tensor, *, box_format: BoxFormat = "xyxy") -> Tensor:
    """Generalised IoU (..., N, M) of every pair of boxes; all else as in `pairwise_iou`.

    Source: Rezatofighi et al., Generalized Intersection over Union, Algorithm 1.
    """
    checks.check(a, b, names=_PAIR, box_format=box_format, least_dims=2)
    batch = checks.broadcast_shape(a, b, names=_PAIR, trailing=2)
    if _takes_kernel(a, b):
        return _pairwise(a, b, batch, general=True, box_format=box_format)
    return pairwise_giou_reference(a, b, box_format=box_format)


def iou_loss(prediction: Tensor, target: Tensor, *, box_format: BoxFormat = "xyxy") -> Tensor:
    """1 - IoU (...) of broadcast boxes (..., 4), one by one.

    Returns float32, or float64 where an input is. Gradients flow to both; where two coordinates are equal, half of the
    gradient of their minimum or maximum goes to each, and boxes that only touch have no gradient by their intersection.
    Values and gradients of degenerate boxes are finite; such a box has a gradient only by terms that still depend on it
    (the hull, the distance of the centres). Second derivatives go through the reference.

    Raises: ValueError for what are not boxes, shapes that do not broadcast, or tensors on two devices.
    """
    return _loss(prediction, target, "iou", box_format)


def giou_loss(prediction: Tensor, target: Tensor, *, box_format: BoxFormat = "xyxy") -> Tensor:
    """1 - generalised IoU, in [0, 2]; all else as in `iou_loss`.

    Source: Rezatofighi et al., Generalized Intersection over Union, Algorithm 1.
    """
    return _loss(prediction, target, "giou", box_format)


def diou_loss(prediction: Tensor, target: Tensor, *, box_format: BoxFormat = "xyxy") -> Tensor:
    """1 - IoU + squared distance of the centres over the squared diagonal of the hull; all else as in `iou_loss`.

    Source: Zheng et al., Distance-IoU Loss, Eq. 7.
    """
    return _loss(prediction, target, "diou", box_format)


def ciou_loss(prediction: Tensor, target: Tensor, *, box_format: BoxFormat = "xyxy") -> Tensor:
    """`diou_loss` + alpha v, v of the angles of the aspect ratios and alpha a constant for the gradient.

    Where a side of either box is at most 1e-7, v is 0. All else as in `iou_loss`.

    Source: Zheng et al., Distance-IoU Loss, Eq. 8 to 11.
    """
    return _loss(prediction, target, "ciou", box_format)


def _takes_kernel(a: Tensor, b: Tensor) -> bool:
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        return False
    return runs_triton(a, b)


def _pairwise(a: Tensor, b: Tensor, batch: torch.Size, *, general: bool, box_format: BoxFormat) -> Tensor:
    flat = [boxes.expand(*batch, *boxes.shape[-2:]) for boxes in (a, b)]
    if len(batch) != 1:
        flat = [boxes.reshape(batch.numel(), *boxes.shape[-2:]) for boxes in flat]
    overlaps = op.pairwise_overlap(*flat, general, box_format == "cxcywh")
    return overlaps.view(*batch, a.shape[-2], b.shape[-2])


def _loss(prediction: Tensor, target: Tensor, kind: Kind, box_format: BoxFormat) -> Tensor:
    checks.check(prediction, target, names=_ALIGNED, box_format=box_format, least_dims=1)
    shape = checks.broadcast_shape(prediction, target, names=_ALIGNED, trailing=1)
    if not runs_triton(prediction, target):
        return box_loss_reference(prediction, target, kind=kind, box_format=box_format)
    return op.box_loss(prediction.expand(*shape, 4), target.expand(*shape, 4), kind, box_format == "cxcywh")
