"""Detections of several passes over one image, fused: weighted boxes fusion, box voting, NMS and soft-NMS.

Every pass has its boxes in the same pixels. Classes are fused apart. The result does not depend on the order of the
passes: equal scores are ordered by their boxes.

Dimension key: N boxes of all passes, D fused boxes, A side of a mask's crop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from codetr_kernels.nms import batched_nms, soft_nms
from numpy.typing import NDArray

from codetr.evaluation.test_time_config import TestTime
from codetr.structures import Detections

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def fuse(passes: Sequence[Detections], settings: TestTime, *, limit: int) -> Detections:
    """The best `limit` of what at least one pass over an image found, on the host.

    passes: boxes of all of them in the same pixels. A fused box has the weighted mean of its members' masks, each taken
    relative to its own box, as the fused box is the mean of theirs; NMS and soft-NMS keep a box with its mask.
    Sources: weighted boxes fusion, Solovyev et al., arXiv 1910.13302; box voting, Gidaris and Komodakis, arXiv
    1505.01749, section 4; soft-NMS, Bodla et al., arXiv 1704.04503.
    """
    found = _ordered(_joined(passes).above(settings.min_score))
    if not len(found.scores):
        return found
    if settings.fusion == "nms":
        return _taken(found, _kept(found, settings.iou, limit))
    if settings.fusion == "soft_nms":
        return _softened(found, settings, limit)
    boxes, scores, labels = found.boxes.double().numpy(), found.scores.double().numpy(), found.labels.numpy()
    if settings.fusion == "vote":
        kept = _kept(found, settings.iou, limit).numpy()
        groups: list[list[int]] | list[Ints] = list(_voters(boxes, labels, kept, settings.iou))
        fused_scores = scores[kept]
    else:
        groups = [group for own in _by_class(labels) for group in _clusters(boxes, scores, own, settings.iou)]
        # Eq. 5: the mean, less if fewer than all passes found it.
        shares = [min(len(group), len(passes)) / len(passes) for group in groups]
        fused_scores = np.array([scores[group].mean() * share for group, share in zip(groups, shares, strict=True)])
    return _means(found, groups, fused_scores, limit)


def _joined(passes: Sequence[Detections]) -> Detections:
    crops = [found.mask_crops for found in passes if found.mask_crops is not None]
    return Detections(
        torch.cat([found.boxes.float().cpu() for found in passes]),
        torch.cat([found.scores.float().cpu() for found in passes]),
        torch.cat([found.labels.cpu() for found in passes]),
        mask_crops=torch.cat([crop.float().cpu() for crop in crops]) if len(crops) == len(passes) else None,
    )


def _ordered(found: Detections) -> Detections:
    """By falling score, then by coordinates, then by label."""
    keys = (found.labels.numpy(), *found.boxes.numpy().T[::-1], -found.scores.numpy())  # the last counts most
    return _taken(found, torch.from_numpy(np.lexsort(keys)))


def _taken(found: Detections, index: torch.Tensor) -> Detections:
    crops = None if found.mask_crops is None else found.mask_crops[index]
    return Detections(found.boxes[index], found.scores[index], found.labels[index], mask_crops=crops)


def _kept(found: Detections, iou: float, limit: int) -> torch.Tensor:
    """What class-wise NMS keeps, best first."""
    one = (
        found.boxes[None],
        found.scores[None],
        found.labels[None],
        torch.ones(1, len(found.scores), dtype=torch.bool),
    )
    index, kept = batched_nms(*one, iou_threshold=iou, limit=limit)
    return index[kept]


def _softened(found: Detections, settings: TestTime, limit: int) -> Detections:
    one = (
        found.boxes[None],
        found.scores[None],
        found.labels[None],
        torch.ones(1, len(found.scores), dtype=torch.bool),
    )
    index, scores, kept = soft_nms(
        *one,
        method=settings.decay,
        iou_threshold=settings.iou,
        sigma=settings.sigma,
        min_score=settings.min_score,
        limit=limit,
    )
    left = _taken(found, index[kept])
    return Detections(left.boxes, scores[kept], left.labels, mask_crops=left.mask_crops)


def _by_class(labels: Ints) -> Iterator[Ints]:
    """Indices of the boxes of each class, best first."""
    order = np.argsort(labels, kind="stable")
    return iter(np.split(order, np.flatnonzero(np.diff(labels[order])) + 1))


@dataclass
class _Growing:
    """Clusters of one class: the mean box of each so far, and its members."""

    means: Floats
    weights: Floats
    members: list[list[int]]


def _clusters(boxes: Floats, scores: Floats, own: Ints, iou: float) -> list[list[int]]:
    """Clusters of weighted boxes fusion: a box joins the one whose mean it overlaps most, if by more than `iou`."""
    growing = _Growing(np.empty((len(own), 4)), np.empty(len(own)), [])
    for index in own.tolist():
        count = len(growing.members)
        overlaps = _iou(boxes[index], growing.means[:count])
        best = int(overlaps.argmax()) if count else 0
        if count and overlaps[best] > iou:
            growing.members[best].append(index)
            weight = growing.weights[best] + scores[index]
            # The confidence-weighted mean of all members (eq. 1 to 4), from that of those before.
            growing.means[best] += (boxes[index] - growing.means[best]) * (scores[index] / weight)
            growing.weights[best] = weight
        else:
            growing.means[count], growing.weights[count] = boxes[index], scores[index]
            growing.members.append([index])
    return growing.members


def _voters(boxes: Floats, labels: Ints, kept: Ints, iou: float) -> Iterator[Ints]:
    """For each kept box those of its class that overlap it by more than `iou`, and itself."""
    of_class = {int(labels[own[0]]): own for own in _by_class(labels)}
    for index in kept.tolist():
        own = of_class[int(labels[index])]
        yield own[(_iou(boxes[index], boxes[own]) > iou) | (own == index)]


def _means(found: Detections, groups: Sequence[Sequence[int] | Ints], scores: Floats, limit: int) -> Detections:
    """The score-weighted means of the `limit` groups with the best scores, best first."""
    order = np.argsort(-scores, kind="stable")[:limit]
    members = np.concatenate([groups[group] for group in order.tolist()]).astype(np.int64)
    lengths = np.array([len(groups[group]) for group in order.tolist()])
    starts = np.cumsum(lengths) - lengths
    weights = found.scores.double().numpy()[members].clip(min=np.finfo(np.float64).tiny)
    weights /= np.repeat(np.add.reduceat(weights, starts), lengths)
    boxes = np.add.reduceat(weights[:, None] * found.boxes.double().numpy()[members], starts)
    crops = None
    if found.mask_crops is not None:
        weighted = weights[:, None, None] * found.mask_crops.numpy()[members]
        crops = torch.from_numpy(np.add.reduceat(weighted, starts)).float()
    labels = found.labels[torch.from_numpy(members[starts])]
    return Detections(
        torch.from_numpy(boxes).float(), torch.from_numpy(scores[order]).float(), labels, mask_crops=crops
    )


def _iou(box: Floats, others: Floats) -> Floats:
    """(N,) of a box (4,) with others (N, 4); 0 where either has no area."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    inter = sides.clip(min=0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    overlap: Floats = np.divide(inter, areas - inter, out=np.zeros_like(inter), where=inter > 0)
    return overlap
