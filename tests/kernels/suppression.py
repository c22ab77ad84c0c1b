"""Boxes for suppression, and what plain loops in float64 make of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from samples import DEVICE
from torch import Tensor

Box = list[float]


@dataclass(frozen=True)
class Scored:
    """Arguments of `batched_nms` and `soft_nms`, on the device of the tests."""

    boxes: Tensor
    scores: Tensor
    groups: Tensor
    valid: Tensor

    def arguments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.boxes, self.scores, self.groups, self.valid

    def with_scores(self, scores: Tensor) -> Scored:
        return replace(self, scores=scores)


def scored(
    boxes: Tensor | list[Box],
    scores: Tensor | list[float],
    groups: Tensor | list[int] | None = None,
    valid: Tensor | list[bool] | None = None,
) -> Scored:
    """Of one image, without the batch dimension, or of several."""
    given = torch.as_tensor(boxes), torch.as_tensor(scores)
    groups = torch.zeros(given[1].shape, dtype=torch.int64) if groups is None else torch.as_tensor(groups)
    valid = torch.ones(given[1].shape, dtype=torch.bool) if valid is None else torch.as_tensor(valid)
    tensors = [tensor.to(DEVICE) for tensor in (*given, groups, valid)]
    return Scored(*(tensors if given[0].ndim == 3 else [tensor[None] for tensor in tensors]))


def random(batch: int, count: int, *, groups: int = 3, side: float = 60, dtype: torch.dtype = torch.float32) -> Scored:
    """A tenth is not valid, and a quarter has one score."""
    corner = torch.rand(batch, count, 2) * side
    boxes = torch.cat([corner, corner + 5 + torch.rand(batch, count, 2) * 40], dim=-1)
    scores = torch.rand(batch, count)
    scores[:, ::4] = 0.5
    group = torch.randint(0, groups, (batch, count))
    return scored(boxes.to(dtype), scores.to(dtype), group, torch.rand(batch, count) < 0.9)


def chain(length: int) -> list[Box]:
    """Boxes in a row, each over the next by 6 / 14 and over no other by more than 2 / 18."""
    return [[4.0 * i, 0.0, 4.0 * i + 10, 10.0] for i in range(length)]


def iou(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def greedy(problem: Scored, *, iou_threshold: float, limit: int) -> list[list[int]]:
    """Kept indices of each image, box by box."""
    return [_greedy_image(*image, iou_threshold, limit) for image in zip(*_lists(problem), strict=True)]


def _greedy_image(
    boxes: list[Box], scores: list[float], groups: list[int], valid: list[bool], threshold: float, limit: int
) -> list[int]:
    kept: list[int] = []
    for i in sorted((i for i in range(len(scores)) if valid[i]), key=lambda i: (-scores[i], i)):
        if all(groups[i] != groups[k] or iou(boxes[i], boxes[k]) <= threshold for k in kept):
            kept.append(i)
    return kept[:limit]


def soft(
    problem: Scored, *, weight: Callable[[float], float], min_score: float, limit: int
) -> list[list[tuple[int, float]]]:
    """Picked indices and scores of each image, pick by pick. weight: of the IoU with the pick."""
    return [_soft_image(*image, weight, min_score, limit) for image in zip(*_lists(problem), strict=True)]


def _soft_image(
    boxes: list[Box],
    scores: list[float],
    groups: list[int],
    valid: list[bool],
    weight: Callable[[float], float],
    min_score: float,
    limit: int,
) -> list[tuple[int, float]]:
    remaining = {i: score for i, score in enumerate(scores) if valid[i] and score >= min_score}
    picked: list[tuple[int, float]] = []
    while remaining and len(picked) < limit:
        best = max(remaining, key=lambda i: (remaining[i], -i))
        picked.append((best, remaining.pop(best)))
        for i in list(remaining):
            if groups[i] == groups[best]:
                remaining[i] *= weight(iou(boxes[i], boxes[best]))
            if remaining[i] < min_score:
                del remaining[i]
    return picked


def linear(threshold: float) -> Callable[[float], float]:
    return lambda iou: 1 - iou if iou > threshold else 1.0


def gaussian(sigma: float) -> Callable[[float], float]:
    return lambda iou: math.exp(-(iou**2) / sigma)


def _lists(problem: Scored) -> list[list]:
    return [tensor.tolist() for tensor in problem.arguments()]


def rows(index: Tensor, kept: Tensor) -> list[list[int]]:
    """Kept indices of each image; checks what the other slots hold, and that the kept ones come first."""
    counts = kept.sum(1).tolist()
    for i, (row, keep, count) in enumerate(zip(index.tolist(), kept.tolist(), counts, strict=True)):
        assert keep == [slot < count for slot in range(len(keep))], i
        assert row[count:] == [0] * (len(row) - count), i
    return [row[:count] for row, count in zip(index.tolist(), counts, strict=True)]
