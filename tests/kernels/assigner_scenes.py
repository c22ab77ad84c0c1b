"""Scenes for the assigners, and the rules of the assigners in plain loops of float64.

Whole-pixel boxes with sides of at most 32 pixels have an IoU of two whole numbers, the lower one at most 2048.
Different fractions of this kind are at least 2^-22 apart and rounding to float32 moves them by at most 2^-25: float32
and float64 agree on which of two is larger, and on which are equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from codetr_kernels.assigners import CellGrid
from samples import DEVICE
from torch import Tensor

SHAPES, STRIDES = ((6, 8), (3, 4), (1, 2)), (8, 16, 32)


@dataclass
class Scene:
    """Arguments of an assigner."""

    priors: Tensor
    valid: Tensor
    gt_boxes: Tensor
    gt_valid: Tensor
    grid: CellGrid

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.priors, self.valid, self.gt_boxes, self.gt_valid

    def points(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """With the centres for the boxes of the priors."""
        return (self.priors[..., :2] + self.priors[..., 2:]) * 0.5, self.valid, self.gt_boxes, self.gt_valid


def random_objects(count: int, *, low: int = -10, high: int = 60, most: int = 32, seed: int = 0) -> np.ndarray:
    """Whole-pixel boxes, some of them outside of the image."""
    random = np.random.default_rng(seed)
    corner = random.integers(low, high, (count, 2))
    return np.concatenate([corner, corner + random.integers(1, most + 1, (count, 2))], axis=1).astype(float)


def scene(
    *objects: np.ndarray,
    shapes: tuple[tuple[int, int], ...] = SHAPES,
    strides: tuple[int, ...] = STRIDES,
    side: float | None = None,
    sizes: list[list[float]] | None = None,
    offset: float = 0.0,
    padding: int = 1,
) -> Scene:
    """One prior a cell, a square of `side` pixels or of 32 pixels at most, for images with these objects."""
    boxes: list[Tensor] = []
    for (height, width), stride in zip(shapes, strides, strict=True):
        y, x = torch.meshgrid(torch.arange(height) + offset, torch.arange(width) + offset, indexing="ij")
        centre = torch.stack([x, y, x, y], -1).flatten(0, 1) * stride
        half = (side or min(32, 2 * stride)) / 2
        boxes.append(centre + torch.tensor([-half, -half, half, half]))
    grid_sizes = None if sizes is None else torch.tensor(sizes)
    valid = torch.ones(len(objects), sum(len(level) for level in boxes), dtype=torch.bool)
    if sizes is not None:
        rows = [[_inside(*level, size) for level in zip(shapes, strides, strict=True)] for size in sizes]
        valid = torch.stack([torch.cat(row) for row in rows])
    most = max(map(len, objects)) + padding
    gt_boxes = torch.full((len(objects), most, 4), float("nan"))
    gt_valid = torch.zeros(len(objects), most, dtype=torch.bool)
    for image, found in enumerate(objects):
        gt_boxes[image, : len(found)] = torch.from_numpy(found).float()
        gt_valid[image, : len(found)] = True
    grid = CellGrid(shapes, strides, offset, None if grid_sizes is None else grid_sizes.to(DEVICE))
    tensors = (torch.cat(boxes), valid, gt_boxes.nan_to_num(7.0), gt_valid)
    return Scene(*(tensor.to(DEVICE) for tensor in tensors), grid)


def _inside(shape: tuple[int, int], stride: int, size: list[float]) -> Tensor:
    rows, columns = (torch.arange(count) * stride < extent for count, extent in zip(shape, size, strict=True))
    return (rows[:, None] & columns).flatten()


SAME = np.array([[8.0, 8, 24, 24], [8, 8, 24, 24], [0, 0, 16, 16], [8, 8, 24, 24]])

SCENES = {
    "objects anywhere, an empty image": lambda: scene(random_objects(5), random_objects(0), random_objects(3, seed=1)),
    "equal objects": lambda: scene(SAME, SAME[::-1].copy()),
    "objects outside": lambda: scene(random_objects(3, low=300, high=900), random_objects(3, low=-900, high=-400)),
    "padded images": lambda: scene(
        random_objects(3, seed=2), random_objects(4, seed=3), sizes=[[48.0, 64.0], [17.0, 40.0]]
    ),
    "an image of no size": lambda: scene(random_objects(2), random_objects(2), sizes=[[0.0, 0.0], [1.0, 1.0]]),
    "one row, one column": lambda: scene(random_objects(4, seed=4), shapes=((1, 12), (9, 1)), strides=(8, 16)),
    "two rows, centres in the middle": lambda: scene(
        random_objects(4, seed=5), shapes=((2, 20), (1, 1)), strides=(8, 14), offset=0.5
    ),
    "more than a block of priors": lambda: scene(random_objects(3, seed=6), shapes=((17, 18),), strides=(4,)),
    "no objects at all": lambda: scene(random_objects(0), random_objects(0), padding=0),
}


def plain_iou(priors: np.ndarray, gt: np.ndarray) -> np.ndarray:
    """(P,) IoU with one object."""
    extent = np.minimum(priors[:, 2:], gt[2:]) - np.maximum(priors[:, :2], gt[:2])
    shared = extent.clip(min=0).prod(1)
    return shared / ((priors[:, 2:] - priors[:, :2]).prod(1) + (gt[2:] - gt[:2]).prod() - shared)


def plain_max_iou(
    priors: np.ndarray,
    valid: np.ndarray,
    gts: np.ndarray,
    positive: float,
    negative: float,
    low_quality: float | None = None,
) -> list[int]:
    """Of one image."""
    found = np.full(len(priors), -1 if negative > 0 else -2)
    best = np.zeros(len(priors))
    overlaps = [plain_iou(priors, gt) for gt in gts]
    for number, overlap in enumerate(overlaps):
        for p in np.flatnonzero(overlap > best):
            best[p] = overlap[p]
            found[p] = number if best[p] >= positive else -1 if best[p] < negative else -2
    for number, overlap in enumerate(overlaps):
        top = overlap[valid].max(initial=0.0)
        if low_quality is not None and top > 0 and top >= low_quality:
            found[overlap == top] = number
    return np.where(valid, found, -2).tolist()


def plain_atss(
    priors: np.ndarray, valid: np.ndarray, gts: np.ndarray, level_sizes: tuple[int, ...], topk: int
) -> list[int] | None:
    """Of one image; None where the threshold is as near to an IoU as float32 is to float64."""
    best: list[tuple[float, int]] = [(-1.0, -1)] * len(priors)
    centres = (priors[:, :2] + priors[:, 2:]) / 2
    for number, gt in enumerate(gts):
        squares = ((centres - (gt[:2] + gt[2:]) / 2) ** 2).sum(1)
        candidates: list[int] = []
        start = 0
        for size in level_sizes:
            level = [p for p in range(start, start + size) if valid[p]]
            candidates += sorted(level, key=lambda p: (squares[p], p))[:topk]
            start += size
        ious = plain_iou(priors[candidates], gt)
        if not candidates:
            continue
        threshold = ious.mean() + (ious.std(ddof=1) if len(ious) > 1 else 0.0)
        if len(set(ious)) == 1:
            threshold = ious[0]
        elif np.abs(ious - threshold).min() < 1e-6:
            return None
        for p, iou in zip(candidates, ious, strict=True):
            depth = min(*(centres[p] - gt[:2]), *(gt[2:] - centres[p]))
            if iou >= threshold and depth > 0.01 and iou > best[p][0]:
                best[p] = (iou, number)
    return [number if inside else -2 for (_, number), inside in zip(best, valid, strict=True)]


def plain_fcos(
    points: np.ndarray,
    valid: np.ndarray,
    gts: np.ndarray,
    level_sizes: tuple[int, ...],
    strides: tuple[float, ...],
    ranges: tuple[tuple[float, float], ...],
    radius: float | None,
) -> list[int]:
    """Of one image."""
    found = []
    for p, (x, y) in enumerate(points):
        level = int(np.searchsorted(np.cumsum(level_sizes), p, side="right"))
        (low, high), chosen = ranges[level], (math.inf, -1)
        for number, (x0, y0, x1, y1) in enumerate(gts):
            reach = math.inf if radius is None else radius * strides[level]
            mx, my = (x0 + x1) / 2, (y0 + y1) / 2
            across = max(mx - reach, x0) < x < min(mx + reach, x1)
            along = max(my - reach, y0) < y < min(my + reach, y1)
            fits = low <= max(x - x0, y - y0, x1 - x, y1 - y) <= high
            area = (x1 - x0) * (y1 - y0)
            if across and along and fits and area < chosen[0]:
                chosen = (area, number)
        found.append(chosen[1] if valid[p] else -2)
    return found


def plain_mixture(losses: np.ndarray) -> np.ndarray:
    """Which of an object's candidates are its positives, by EM as scikit-learn's `GaussianMixture` does it."""
    if len(losses) < 2:
        return np.zeros(len(losses), dtype=bool)
    weights, means, variances = np.array([0.5, 0.5]), np.array([losses.min(), losses.max()]), np.ones(2)
    before = -math.inf
    x = losses[:, None]

    def log_density() -> np.ndarray:
        return np.log(weights) - 0.5 * (np.log(2 * np.pi * variances) + (x - means) ** 2 / variances)

    for _ in range(100):
        joint = log_density()
        score = np.logaddexp(joint[:, 0], joint[:, 1])
        share = np.exp(joint - score[:, None])
        total = share.sum(0) + 10 * np.finfo(float).eps
        means = (share * x).sum(0) / total
        variances = (share * (x - means) ** 2).sum(0) / total + 1e-6
        weights = total / len(losses)
        if abs(score.mean() - before) < 1e-3:
            break
        before = score.mean()
    joint = log_density()
    score = np.logaddexp(joint[:, 0], joint[:, 1])
    foreground = joint[:, 0] >= joint[:, 1]
    if not foreground.any():
        return foreground
    likeliest = np.where(foreground, score, -math.inf)
    return foreground & (losses <= losses[likeliest == likeliest.max()].min())


def of_images(scene: Scene, priors: Tensor | None = None) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Priors, their validity and the objects of each image, in float64."""
    priors = scene.priors if priors is None else priors
    rows = priors.expand(len(scene.valid), *priors.shape[-2:]).double().cpu().numpy()
    return [
        (row, valid.cpu().numpy(), boxes[real].double().cpu().numpy())
        for row, valid, boxes, real in zip(rows, scene.valid, scene.gt_boxes, scene.gt_valid, strict=True)
    ]
