"""Assigners as detectors write them: image by image, whole matrices of pairs, boolean indexing, loops over objects.

Results are those of `codetr_kernels.assigners`: the object of each prior, -1 for a negative, -2 for what is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from codetr.bench.assignment.case import Inputs, Run

NEGATIVE, IGNORED = -1, -2
TOPK = 9


def _each_image(inputs: Inputs, assign: Callable[[int, Tensor, Tensor], Tensor]) -> Tensor:
    """Of each image the priors that are valid, by `assign(image, valid, objects)`; the others are ignored."""
    found = []
    for image, (valid, boxes, is_object) in enumerate(
        zip(inputs["prior_valid"], inputs["gt_boxes"], inputs["gt_valid"], strict=True)
    ):
        full = torch.full(valid.shape, IGNORED, device=valid.device)
        full[valid] = assign(image, valid, boxes[is_object])
        found.append(full)
    return torch.stack(found)


def max_iou(inputs: Inputs) -> Tensor:
    """The highest overlap decides; then the best priors of each object, one object after the other."""

    def assign(image: int, valid: Tensor, objects: Tensor) -> Tensor:
        overlaps = box_iou(objects, inputs["priors"][valid])
        best, which = overlaps.max(0)
        assigned = torch.full_like(which, IGNORED)
        assigned[best < inputs["negative"]] = NEGATIVE
        positive = best >= inputs["positive"]
        assigned[positive] = which[positive]
        top = overlaps.max(1).values
        for number in range(len(objects)):
            if top[number] >= inputs["low_quality"] and top[number] > 0:
                assigned[overlaps[number] == top[number]] = number
        return assigned

    return _each_image(inputs, assign)


def atss(inputs: Inputs) -> Tensor:
    """The nearest priors of each level by a topk over all of it, and a threshold for each object."""

    def assign(image: int, valid: Tensor, objects: Tensor) -> Tensor:
        priors = inputs["priors"][valid]
        overlaps = box_iou(priors, objects)
        centres, middles = _centres(priors), _centres(objects)
        distances = (centres[:, None] - middles[None]).pow(2).sum(-1).sqrt()
        candidates, start = [], 0
        for level in valid.split(inputs["level_sizes"]):
            count = int(level.sum())
            nearest = distances[start : start + count].topk(min(TOPK, count), dim=0, largest=False).indices
            candidates.append(nearest + start)
            start += count
        index = torch.cat(candidates)
        own = overlaps.gather(0, index)
        threshold = own.mean(0) + own.std(0)
        left_top = centres[index] - objects[:, :2]
        right_bottom = objects[:, 2:] - centres[index]
        inside = torch.cat([left_top, right_bottom], -1).min(-1).values > 0.01
        positive = (own >= threshold) & inside
        claims = torch.full_like(overlaps, -math.inf)
        claims[index[positive], positive.nonzero()[:, 1]] = own[positive]
        claim, which = claims.max(1)
        return torch.where(claim > -math.inf, which, NEGATIVE)

    return _each_image(inputs, assign)


def fcos(inputs: Inputs) -> Tensor:
    """The smallest of the objects whose middle a point lies in, of those that suit its level."""
    strides = inputs["stride"]
    low, high = (
        torch.cat(
            [
                torch.full((size,), limits[side], device=strides.device)
                for size, limits in zip(inputs["level_sizes"], inputs["ranges"], strict=True)
            ]
        )
        for side in (0, 1)
    )

    def assign(image: int, valid: Tensor, objects: Tensor) -> Tensor:
        points, reach = inputs["points"][valid], 1.5 * strides[valid]
        areas = (objects[:, 2:] - objects[:, :2]).prod(1).repeat(len(points), 1)
        sides = torch.cat([points[:, None] - objects[None, :, :2], objects[None, :, 2:] - points[:, None]], -1)
        middles = _centres(objects)
        starts = torch.maximum(middles[None] - reach[:, None], objects[None, :, :2])
        ends = torch.minimum(middles[None] + reach[:, None], objects[None, :, 2:])
        inner = torch.cat([points[:, None] - starts, ends - points[:, None]], -1)
        longest = sides.max(-1).values
        suits = (longest >= low[valid, None]) & (longest <= high[valid, None])
        areas[~(suits & (inner.min(-1).values > 0))] = math.inf
        area, which = areas.min(1)
        which[area == math.inf] = NEGATIVE
        return which

    return _each_image(inputs, assign)


def paa(inputs: Inputs) -> Tensor:
    """Object by object: candidates to the host, a mixture fitted there, positives back."""
    return _paa(inputs, _fit)


def paa_with_sklearn(mixture: Any) -> Run:
    """The same with the fit that the paper's code calls."""

    def positives(losses: Any) -> Any:
        start = {
            "weights_init": [0.5, 0.5],
            "means_init": [[losses.min()], [losses.max()]],
            "precisions_init": [[[1.0]], [[1.0]]],
        }
        fitted = mixture.GaussianMixture(2, **start).fit(losses[:, None])
        return _up_to_the_peak(losses, fitted.predict(losses[:, None]) == 0, fitted.score_samples(losses[:, None]))

    return lambda inputs: _paa(inputs, positives)


def _paa(inputs: Inputs, fit: Callable[[Any], Any]) -> Tensor:
    found = []
    for losses, offered in zip(inputs["losses"], inputs["offered"], strict=True):
        assigned = torch.where(offered >= 0, NEGATIVE, offered)
        for number in range(inputs["gt_boxes"].shape[1]):
            candidates, start = [], 0
            for size in inputs["level_sizes"]:
                index = (offered[start : start + size] == number).nonzero()[:, 0] + start
                least = losses[index].topk(min(TOPK, len(index)), largest=False).indices
                candidates.append(index[least])
                start += size
            index = torch.cat(candidates)
            if len(index) < 2:
                continue
            positive = torch.as_tensor(fit(losses[index].double().cpu().numpy()), device=index.device)
            assigned[index[positive]] = number
        found.append(assigned)
    return torch.stack(found)


def _fit(losses: Any) -> Any:
    """Two Gaussians by expectation and maximisation, from the least and the largest loss, as scikit-learn fits them."""
    import numpy as np

    mean = np.array([[losses.min()], [losses.max()]])
    weight, variance, before = np.full((2, 1), 0.5), np.ones((2, 1)), -math.inf
    for _ in range(100):
        joint, score = _densities(losses, weight, mean, variance)
        share = np.exp(joint - score)
        total = share.sum(1, keepdims=True) + 10 * np.finfo(np.float64).eps
        mean = (share * losses).sum(1, keepdims=True) / total
        variance = (share * (losses - mean) ** 2).sum(1, keepdims=True) / total + 1e-6
        weight = total / len(losses)
        now = score.mean()
        if abs(now - before) < 1e-3:
            break
        before = now
    joint, score = _densities(losses, weight, mean, variance)
    return _up_to_the_peak(losses, joint[0] >= joint[1], score)


def _densities(losses: Any, weight: Any, mean: Any, variance: Any) -> tuple[Any, Any]:
    import numpy as np

    squared = (losses - mean) ** 2 / variance
    joint = np.log(weight) - 0.5 * (math.log(2 * math.pi) + np.log(variance) + squared)
    return joint, np.logaddexp(joint[0], joint[1])


def _up_to_the_peak(losses: Any, foreground: Any, score: Any) -> Any:
    if not foreground.any():
        return foreground
    peak = score[foreground].max()
    return foreground & (losses <= losses[foreground & (score == peak)].min())


def _centres(boxes: Tensor) -> Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2
