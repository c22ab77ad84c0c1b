"""The assigners in PyTorch's operations, on any device: what the kernels are held to.

Dimension key: B images, P priors, G objects, T candidates of an object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from codetr_kernels.assigners.grid import CellGrid, cells_inside, nearest_ranks, ranked_cells

NEGATIVE, IGNORED = -1, -2

PAIRS = 1 << 25
"""Pairs of a prior and an object held at once; the objects are taken in blocks of as many."""

_EPS = 1e-7


def max_iou_assign_reference(
    priors: Tensor,
    prior_valid: Tensor,
    gt_boxes: Tensor,
    gt_valid: Tensor,
    *,
    positive: float,
    negative: float,
    low_quality: float | None = None,
) -> Tensor:
    """`max_iou_assign`."""
    best = gt_boxes.new_full(prior_valid.shape, -1.0, dtype=_wide(gt_boxes, priors))
    index = torch.zeros_like(best, dtype=torch.long)
    rescued = torch.full_like(index, NEGATIVE)
    for start, stop in _blocks(prior_valid.numel(), gt_boxes.shape[1]):
        valid = gt_valid[:, start:stop]
        iou_BPG = box_iou(priors.unsqueeze(-2), gt_boxes[:, start:stop].unsqueeze(-3))
        iou_BPG = iou_BPG.masked_fill(~(prior_valid.unsqueeze(2) & valid.unsqueeze(1)), -1.0)
        iou, gt = iou_BPG.max(dim=2)
        index = torch.where(iou > best, gt + start, index)
        best = torch.maximum(best, iou)
        if low_quality is not None:
            rescued = torch.maximum(rescued, _best_priors(iou_BPG, least=low_quality, start=start))
    gt_index = torch.where(best >= positive, index, torch.where(best < negative, NEGATIVE, IGNORED))
    gt_index = torch.where(rescued >= 0, rescued, gt_index)
    return gt_index.masked_fill(~prior_valid, IGNORED)


def _best_priors(iou_BPG: Tensor, *, least: float, start: int) -> Tensor:
    """(B, P) the last object whose best overlap, at least `least` and not 0, is with this prior; else -1."""
    if iou_BPG.shape[1] == 0:
        return iou_BPG.new_empty(iou_BPG.shape[:2], dtype=torch.long)
    top = iou_BPG.amax(dim=1, keepdim=True)
    hit = (iou_BPG == top) & (top >= least) & (top > 0)
    number = torch.arange(start, start + iou_BPG.shape[2], device=hit.device)
    return torch.where(hit, number, NEGATIVE).amax(dim=2)


def atss_assign_reference(
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
    """`atss_assign`. Without a grid the nearest priors are sought among all of a level."""
    boxes_BP = priors.expand(*prior_valid.shape, 4)
    num_gts = gt_boxes.shape[1]
    if grid is None:
        flat = _nearest(boxes_BP, prior_valid, gt_boxes, level_sizes, topk)
        counted_BGT = prior_valid.gather(1, flat.flatten(1)).view_as(flat)
    else:
        flat, counted_BGT = _nearest_on_grid(boxes_BP, gt_boxes, grid, topk)
    candidate_BGT, flat = flat, flat.flatten(1)
    counted_BGT = counted_BGT & gt_valid.unsqueeze(2)
    box_BGT = boxes_BP.gather(1, flat.unsqueeze(-1).expand(-1, -1, 4)).unflatten(1, candidate_BGT.shape[1:])
    gt_BG1 = gt_boxes.unsqueeze(2)
    iou_BGT = box_iou(box_BGT, gt_BG1)
    reached = iou_BGT.double() >= _threshold(iou_BGT.double(), counted_BGT).unsqueeze(2)
    positive_BGT = counted_BGT & reached & (_depth(box_BGT, gt_BG1) > margin)

    claim = torch.where(positive_BGT, iou_BGT, -1.0).flatten(1)
    best_BP = claim.new_full(prior_valid.shape, -1.0).scatter_reduce(1, flat, claim, "amax")
    wins = positive_BGT.flatten(1) & (claim == best_BP.gather(1, flat))
    number = torch.arange(num_gts, device=flat.device).view(1, -1, 1).expand_as(candidate_BGT).flatten(1)
    first = torch.full_like(prior_valid, num_gts, dtype=torch.long)
    first = first.scatter_reduce(1, flat, torch.where(wins, number, num_gts), "amin")
    return first.masked_fill(first == num_gts, NEGATIVE).masked_fill(~prior_valid, IGNORED)


def _nearest(boxes_BP: Tensor, prior_valid: Tensor, gt_boxes: Tensor, level_sizes: Sequence[int], topk: int) -> Tensor:
    """(B, G, T) indices of the nearest priors of every level; levels of fewer than topk priors give them all."""
    found: list[Tensor] = []
    start = 0
    for size in level_sizes:
        squared = _squared_distance(boxes_BP[:, None, start : start + size], gt_boxes.unsqueeze(2))
        squared = squared.masked_fill(~prior_valid[:, start : start + size].unsqueeze(1), torch.inf)
        key = _distance_key(squared, torch.arange(size, device=squared.device))
        found.append(key.topk(min(topk, size), dim=2, largest=False).indices + start)
        start += size
    return torch.cat(found, dim=2)


def _nearest_on_grid(boxes_BP: Tensor, gt_boxes: Tensor, grid: CellGrid, topk: int) -> tuple[Tensor, Tensor]:
    """Indices (B, G, T) of the nearest valid priors of every level, topk a level, and which of them there are."""
    centre_x, centre_y = _centre(_widened(gt_boxes)).unbind(-1)
    row_rank, column_rank = nearest_ranks(topk, gt_boxes.device)
    height, width = (None, None) if grid.sizes is None else grid.sizes.unbind(1)
    found: list[Tensor] = []
    counted: list[Tensor] = []
    start = 0
    for (tall, wide), stride in zip(grid.shapes, grid.strides, strict=True):
        rows = cells_inside(tall, stride, height, gt_boxes)
        columns = cells_inside(wide, stride, width, gt_boxes)
        row = ranked_cells(centre_y, rows, row_rank, stride=stride, offset=grid.offset)
        column = ranked_cells(centre_x, columns, column_rank, stride=stride, offset=grid.offset)
        cell_BGC = row * wide + column + start
        exists_BC = (row_rank < rows) & (column_rank < columns)
        box = boxes_BP.gather(1, cell_BGC.flatten(1).unsqueeze(-1).expand(-1, -1, 4))
        squared = _squared_distance(box.unflatten(1, cell_BGC.shape[1:]), gt_boxes.unsqueeze(2))
        key = _distance_key(squared.masked_fill(~exists_BC.unsqueeze(1), torch.inf), cell_BGC)
        chosen = key.topk(topk, dim=2, largest=False).indices
        found.append(cell_BGC.gather(2, chosen))
        counted.append(exists_BC.unsqueeze(1).expand_as(cell_BGC).gather(2, chosen))
        start += tall * wide
    return torch.cat(found, dim=2), torch.cat(counted, dim=2)


def _squared_distance(boxes: Tensor, gts: Tensor) -> Tensor:
    """Of the centres of broadcast boxes, float32."""
    shift_x, shift_y = (
        gt - box for gt, box in zip(_centre(_widened(gts)).unbind(-1), _centre(_widened(boxes)).unbind(-1), strict=True)
    )
    return (shift_x.square() + shift_y.square()).float()


def _distance_key(squared: Tensor, index: Tensor) -> Tensor:
    """The bits of a float >= 0 order like the float; the index below them decides between equal distances."""
    return (squared.view(torch.int32).long() << 32) + index


def _threshold(iou_BGT: Tensor, counted_BGT: Tensor) -> Tensor:
    """(B, G) mean plus unbiased standard deviation of the counted candidates' IoU.

    In float64 the sum of equal IoUs is exact and so is their mean, and any order of adding gives the same decisions.
    """
    count = counted_BGT.sum(2)
    mean = (iou_BGT * counted_BGT).sum(2) / count.clamp(min=1)
    squares = (iou_BGT - mean.unsqueeze(2)).square() * counted_BGT
    return mean + (squares.sum(2) / (count - 1).clamp(min=1)).sqrt()


def _depth(boxes: Tensor, gts: Tensor) -> Tensor:
    """Distance in pixels from the centres of boxes to the nearest side of gts; negative outside."""
    boxes, gts = _widened(boxes), _widened(gts)
    centre = _centre(boxes)
    return torch.cat([centre - gts[..., :2], gts[..., 2:] - centre], dim=-1).amin(-1)


def fcos_assign_reference(
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
    """`fcos_assign`."""
    points, gt_boxes = _widened(points), _widened(gt_boxes)
    dtype, device = _wide(points, gt_boxes), points.device
    stride, low, high = (
        torch.cat([torch.full((n, 1), v, dtype=dtype, device=device) for n, v in zip(level_sizes, values, strict=True)])
        for values in (strides, [low for low, _ in ranges], [high for _, high in ranges])
    )
    smallest = points.new_full(point_valid.shape, torch.inf, dtype=dtype)
    gt_index = torch.full_like(point_valid, NEGATIVE, dtype=torch.long)
    for start, stop in _blocks(point_valid.numel(), gt_boxes.shape[1]):
        gt_B1G = gt_boxes[:, None, start:stop]
        reach = _sides(points.unsqueeze(-2), gt_B1G)
        inside = reach.amin(-1) > 0
        if radius is not None:
            middle = _centre(gt_B1G)
            shift = (stride * radius).unsqueeze(-1)
            core = torch.cat(
                [torch.maximum(middle - shift, gt_B1G[..., :2]), torch.minimum(middle + shift, gt_B1G[..., 2:])], -1
            )
            inside = _sides(points.unsqueeze(-2), core).amin(-1) > 0
        farthest = reach.amax(-1)
        taken = inside & (farthest >= low) & (farthest <= high) & gt_valid[:, None, start:stop]
        extent = gt_B1G[..., 2:] - gt_B1G[..., :2]
        area, gt = (extent[..., 0] * extent[..., 1]).masked_fill(~taken, torch.inf).min(dim=2)
        gt_index = torch.where(area < smallest, gt + start, gt_index)
        smallest = torch.minimum(smallest, area)
    return gt_index.masked_fill(~point_valid, IGNORED)


def _sides(points: Tensor, boxes: Tensor) -> Tensor:
    """(..., 4) distances of broadcast points to the left, top, right and bottom side, positive inside."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of broadcast (..., 4) boxes, one by one; a box without width or height overlaps nothing."""
    a, b = _widened(a), _widened(b)
    width = torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])
    height = torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])
    intersection = width.clamp(min=0) * height.clamp(min=0)
    return intersection / (_area(a) + _area(b) - intersection).clamp(min=_EPS)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def _centre(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) * 0.5


def _widened(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _wide(*tensors: Tensor) -> torch.dtype:
    """The type of what is computed from these, at least float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _blocks(num_priors: int, num_gts: int) -> Iterator[tuple[int, int]]:
    block = max(1, PAIRS // max(1, num_priors))
    for start in range(0, num_gts, block):
        yield start, start + block
