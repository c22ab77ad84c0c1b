"""Adaptive training sample selection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from codetr.assigners.atss import ATSSAssigner
from codetr.assigners.contract import Priors
from codetr.structures import Targets

MakeTargets = Callable[..., Targets]
MakePriors = Callable[..., Priors]


def row_of_anchors(count: int, side: float = 8) -> Tensor:
    """Square anchors centred on (8 i, 0)."""
    centre = torch.arange(count) * 8.0
    half = torch.full((count,), side / 2)
    return torch.stack([centre - half, -half, centre + half, half], dim=1)


def test_literal(make_targets: MakeTargets, make_priors: MakePriors) -> None:
    """Candidates of IoU 0, 1, 0: threshold 0.91, one positive. Of IoU 1/3, 1/3, 0: threshold 0.41, none."""
    priors = make_priors(row_of_anchors(6))
    assert ATSSAssigner(topk=3).assign(priors, make_targets([[12.0, -4, 20, 4]])).tolist() == [[-1, -1, 0, -1, -1, -1]]
    assert ATSSAssigner(topk=3).assign(priors, make_targets([[8.0, -4, 16, 4]])).tolist() == [[-1] * 6]


def test_a_candidate_must_have_its_centre_inside(make_targets: MakeTargets, make_priors: MakePriors) -> None:
    """Anchor 1 overlaps the object most; its centre (8, 0) is inside, or 0.01 px inside, or on its side."""
    anchors = row_of_anchors(3)
    for left, expected in ((7.0, 0), (7.98, 0), (7.995, -1), (8.0, -1)):
        index = ATSSAssigner(topk=3).assign(make_priors(anchors), make_targets([[left, -4, 13, 4]]))
        assert index.tolist() == [[-1, expected, -1]], left


def test_levels_give_candidates_each(make_targets: MakeTargets, make_priors: MakePriors) -> None:
    """Two levels of three; the second level's middle anchor alone covers the object well."""
    anchors = torch.cat([row_of_anchors(3, side=2), row_of_anchors(3, side=16)])
    priors = make_priors(anchors, level_sizes=(3, 3))
    assert ATSSAssigner(topk=2).assign(priors, make_targets([[0.0, -8, 16, 8]])).tolist() == [[-1, -1, -1, -1, 0, -1]]


def test_a_contested_prior_goes_to_the_higher_iou_then_to_the_first(
    make_targets: MakeTargets, make_priors: MakePriors
) -> None:
    small, exact = [5.0, -3, 11, 3], [4.0, -4, 12, 4]
    priors = make_priors(row_of_anchors(3))
    assert ATSSAssigner(topk=3).assign(priors, make_targets([small, exact])).tolist() == [[-1, 1, -1]]
    assert ATSSAssigner(topk=3).assign(priors, make_targets([exact, exact])).tolist() == [[-1, 0, -1]]


def test_invalid_priors_are_no_candidates(make_targets: MakeTargets, make_priors: MakePriors) -> None:
    priors = replace(make_priors(row_of_anchors(4)), valid=torch.tensor([[True, False, True, True]]))
    wide = [-4.0, -4, 28, 4]  # covers all four anchors equally: IoU 1/4, deviation 0
    assert ATSSAssigner(topk=4).assign(priors, make_targets([wide])).tolist() == [[0, -2, 0, 0]]


def test_images_without_objects_or_valid_priors(make_targets: MakeTargets) -> None:
    valid = torch.tensor([[True] * 3, [True, True, False], [False] * 3])
    targets = make_targets([[4.0, -4, 12, 4]], [], [[4.0, -4, 12, 4]])
    index = ATSSAssigner(topk=3).assign(Priors(row_of_anchors(3), valid, (3,)), targets)
    assert index.tolist() == [[-1, 0, -1], [-1, -1, -2], [-2, -2, -2]]


def plain_atss(anchors: np.ndarray, sizes: tuple[int, ...], gts: np.ndarray, topk: int) -> list[int] | None:
    """The rule in plain loops; None where rounding could decide."""
    best: list[tuple[float, int]] = [(-1.0, -1)] * len(anchors)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    for number, gt in enumerate(gts):
        candidates: list[int] = []
        start = 0
        for size in sizes:
            squares = [((centres[p] - (gt[:2] + gt[2:]) / 2) ** 2).sum() for p in range(start, start + size)]
            candidates += [start + i for i in sorted(range(size), key=lambda i: (squares[i], i))[:topk]]
            start += size
        ious = [plain_iou(anchors[p], gt) for p in candidates]
        threshold = np.mean(ious) + np.std(ious, ddof=1)
        for p, iou in zip(candidates, ious, strict=True):
            if abs(iou - threshold) < 1e-9 and threshold > 0:
                return None
            depth = min(*(centres[p] - gt[:2]), *(gt[2:] - centres[p]))
            if iou >= threshold and depth > 0.01 and iou > best[p][0]:
                best[p] = (iou, number)
    return [number for _, number in best]


def plain_iou(a: np.ndarray, b: np.ndarray) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


def test_equals_the_plain_loop(make_targets: MakeTargets, make_priors: MakePriors) -> None:
    """Whole-pixel objects on a grid of anchors: many distances and overlaps are equal."""
    anchors = np.concatenate(
        [
            [[x - 4 * s, y - 4 * s, x + 4 * s, y + 4 * s] for y in range(0, 64, s) for x in range(0, 64, s)]
            for s in (8, 16, 32)
        ]
    ).astype(float)
    sizes = (64, 16, 4)
    decided, positives = 0, 0
    for seed in range(25):
        random = np.random.default_rng(seed)
        images = []
        for count in (4, 0, 2):
            corner = random.integers(0, 40, (count, 2))
            images.append(np.concatenate([corner, corner + random.integers(4, 40, (count, 2))], axis=1).astype(float))
        targets = make_targets(*(image.tolist() for image in images), padding=1, dtype=torch.float64)
        priors = make_priors(torch.from_numpy(anchors), images=3, level_sizes=sizes)
        for ours, gts in zip(ATSSAssigner(topk=9).assign(priors, targets).tolist(), images, strict=True):
            expected = plain_atss(anchors, sizes, gts, topk=9)
            assert expected is None or ours == expected
            decided += expected is not None
            positives += sum(number >= 0 for number in ours)
    assert decided > 70 and positives > 200  # of 75 images: the comparison is not empty
