"""One-to-many assignment of priors (anchors, points, proposals) to objects: contract and dispatch.

Every function takes the images of a batch at once, with the objects of each padded to G, asks the device nothing, and
gives `gt_index` (B, P) int64: the object of each prior, -1 for a negative, -2 for an ignored prior. A prior that is not
valid is ignored; an image without objects has negatives only. Boxes are xyxy pixels. Arithmetic is float32, or float64
where an input is, which runs in PyTorch's operations everywhere; 16-bit inputs are widened. Results do not depend on
the order in which anything runs. No gradients.

Dimension key: B images, P priors, G objects, L levels.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from codetr_kernels.assigners import checks, op
from codetr_kernels.assigners.grid import CellGrid
from codetr_kernels.assigners.mixture import level_candidates, separate_reference
from codetr_kernels.assigners.reference import (
    atss_assign_reference,
    fcos_assign_reference,
    max_iou_assign_reference,
)
from codetr_kernels.backend import runs_triton

__all__ = ["CellGrid", "atss_assign", "fcos_assign", "max_iou_assign", "paa_assign"]


@torch.no_grad()
def max_iou_assign(
    priors: Tensor,
    prior_valid: Tensor,
    gt_boxes: Tensor,
    gt_valid: Tensor,
    *,
    positive: float,
    negative: float,
    low_quality: float | None = None,
) -> Tensor:
    """A prior belongs to the object that it overlaps most, of equals to the first, if it does so enough.

    priors: (P, 4) shared by the images, or (B, P, 4). prior_valid: (B, P) bool. gt_boxes: (B, G, 4). gt_valid: (B, G)
    bool. positive: least IoU of a positive. negative: below it a prior is negative; between the two it is ignored.
    low_quality: if given, the priors that overlap an object most become its positives too, all of them where several
    are equal, provided that they reach this IoU and more than 0; of several such objects the last one counts.

    The kernels never hold the IoU of all pairs, and round as PyTorch does: their decisions are those of the reference.
    Source: Ren et al., Faster R-CNN, section 3.1.2. Raises: ValueError for arguments that do not fit together.
    """
    checks.check(priors, prior_valid, gt_boxes, gt_valid, name="priors", width=4)
    if not _takes_kernels(priors, gt_boxes):
        return max_iou_assign_reference(
            priors, prior_valid, gt_boxes, gt_valid, positive=positive, negative=negative, low_quality=low_quality
        )
    return op.max_iou_assign(priors, prior_valid, gt_boxes, gt_valid, positive, negative, low_quality)


@torch.no_grad()
def atss_assign(
    priors: Tensor,
    prior_valid: Tensor,
    gt_boxes: Tensor,
    gt_valid: Tensor,
    *,
    level_sizes: Sequence[int],
    topk: int = 9,
    margin: float = 0.01,
    grid: CellGrid | None = None,
) -> Tensor:
    """The IoU of an object's candidates, the nearest priors of every level, give the object its threshold.

    priors, prior_valid, gt_boxes, gt_valid: as in `max_iou_assign`. level_sizes: priors of each level, their sum is P.
    topk: candidates of each level, by distance of the centres, equal distances by rising index. margin: pixels. grid:
    says that the priors lie on it one a cell; `prior_valid` is then that of its sizes. Only with a grid the kernels
    run, and only 23 of a level's priors (for topk 9) are looked at; the result is the same.
    A candidate is positive if its IoU reaches mean plus standard deviation (unbiased) of the candidates' and its centre
    lies more than `margin` inside the object. A prior that several objects claim goes to the one of highest IoU, of
    equals to the first. Threshold in float64, so that equal IoUs reach their mean.

    Source: Zhang et al., Bridging the Gap Between Anchor-based and Anchor-free Detection via ATSS, Algorithm 1.
    Raises: ValueError for arguments that do not fit together.
    """
    checks.check(priors, prior_valid, gt_boxes, gt_valid, name="priors", width=4)
    checks.check_levels(level_sizes, prior_valid.shape[1])
    checks.check_topk(topk)
    if grid is not None:
        checks.check_grid(grid, level_sizes, len(prior_valid))
    excess = _excess(len(level_sizes), topk=topk)
    if grid is None or not _takes_kernels(priors, gt_boxes, excess=excess):
        return atss_assign_reference(
            priors, prior_valid, gt_boxes, gt_valid, level_sizes=level_sizes, topk=topk, margin=margin, grid=grid
        )
    sides = [side for shape in grid.shapes for side in shape]
    where = (sides, list(grid.strides), grid.offset, grid.sizes)
    return op.atss_assign(priors, prior_valid, gt_boxes, gt_valid, *where, topk, margin)


@torch.no_grad()
def fcos_assign(
    points: Tensor,
    point_valid: Tensor,
    gt_boxes: Tensor,
    gt_valid: Tensor,
    *,
    level_sizes: Sequence[int],
    strides: Sequence[float],
    ranges: Sequence[tuple[float, float]],
    radius: float | None = 1.5,
) -> Tensor:
    """A point belongs to the smallest object whose middle it lies in and whose size suits its level.

    points: (P, 2) x and y shared by the images, or (B, P, 2). point_valid: (B, P) bool. gt_boxes, gt_valid: as in
    `max_iou_assign`. level_sizes: points of each level, their sum is P. strides, ranges: of each level. radius: the
    point must lie inside the square of `radius` strides round the object's centre, clipped to the object; None: inside
    the object. The farthest of the object's sides must be within the level's range, both ends included. Of equal areas
    the first object counts.

    Source: Tian et al., FCOS: A Simple and Strong Anchor-free Object Detector, section 3.
    Raises: ValueError for arguments that do not fit together.
    """
    checks.check(points, point_valid, gt_boxes, gt_valid, name="points", width=2)
    checks.check_levels(level_sizes, point_valid.shape[1])
    checks.check_ranges(level_sizes, strides, ranges, radius)
    if not _takes_kernels(points, gt_boxes, excess=_excess(len(level_sizes))):
        return fcos_assign_reference(
            points,
            point_valid,
            gt_boxes,
            gt_valid,
            level_sizes=level_sizes,
            strides=strides,
            ranges=ranges,
            radius=radius,
        )
    low, high = [low for low, _ in ranges], [high for _, high in ranges]
    return op.fcos_assign(points, point_valid, gt_boxes, gt_valid, list(level_sizes), list(strides), low, high, radius)


@torch.no_grad()
def paa_assign(losses: Tensor, gt_index: Tensor, *, num_gts: int, level_sizes: Sequence[int], topk: int = 9) -> Tensor:
    """Of the priors that were offered to an object, those that predict it well, as their losses tell.

    losses: (B, P) of each prior against the object it was offered to. gt_index: (B, P) int64, that object; -1 and -2
    stay what they are. num_gts: G. level_sizes: priors of each level, their sum is P. topk: of each level and object
    the priors of least loss are its candidates, of equals the first.
    A mixture of two Gaussians is fitted to the losses of an object's candidates. Its positives are the candidates of
    the component that began at the least loss, up to the loss of their likeliest one; the other priors become negative.
    With fewer than two candidates there are none. A loss that is not finite makes no candidate.

    Source: Kim and Lee, Probabilistic Anchor Assignment with IoU Prediction for Object Detection, section 3.2.
    Raises: ValueError for arguments that do not fit together.
    """
    checks.check_losses(losses, gt_index, num_gts)
    checks.check_levels(level_sizes, gt_index.shape[1])
    checks.check_topk(topk)
    if gt_index.numel() == 0:
        return gt_index.clone()
    index, counted = level_candidates(losses, gt_index, num_gts=num_gts, level_sizes=level_sizes, topk=topk)
    candidate_losses = losses.gather(1, index.flatten(1)).view_as(index)
    excess = _excess(0, candidates=index.shape[2])
    separate = op.separate if _takes_kernels(losses, excess=excess) else separate_reference
    positive = separate(candidate_losses, counted)
    is_positive = torch.zeros_like(gt_index).scatter_reduce(1, index.flatten(1), positive.long().flatten(1), "amax")
    return torch.where((gt_index >= 0) & (is_positive == 0), -1, gt_index)


def _excess(num_levels: int, *, topk: int = 1, candidates: int = 1) -> str | None:
    """What is more than the kernels take, if anything."""
    for name, number, most in (
        ("levels", num_levels, checks.MOST_LEVELS),
        ("candidates a level", topk, checks.MOST_TOPK),
        ("candidates an object", candidates, checks.MOST_CANDIDATES),
    ):
        if number > most:
            return f"{number} {name}, the kernels take {most}"
    return None


def _takes_kernels(*tensors: Tensor, excess: str | None = None) -> bool:
    """Whether the Triton kernels run; a warning where a size alone keeps them from it."""
    if any(tensor.dtype == torch.float64 for tensor in tensors) or not runs_triton(*tensors):
        return False
    if excess is not None:
        warnings.warn(f"this assigner runs its reference, not its kernels: {excess}", RuntimeWarning, stacklevel=4)
    return excess is None
