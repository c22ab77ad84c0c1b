"""Detections of several passes, fused."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from codetr.evaluation.fusion import fuse
from codetr.evaluation.test_time_config import TestTime
from codetr.structures import Detections

FUSIONS = ("wbf", "vote", "soft_nms", "nms")


def found(*rows: tuple[list[float], float, int], crops: list[float] | None = None) -> Detections:
    """Rows of (box, score, label). crops: the value of each one's mask."""
    boxes, scores, labels = zip(*rows, strict=True) if rows else ((), (), ())
    masks = None if crops is None else torch.tensor(crops)[:, None, None].expand(-1, 2, 2)
    boxes_tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Detections(
        boxes_tensor, torch.tensor(scores, dtype=torch.float32), torch.tensor(labels).long(), mask_crops=masks
    )


def settings(fusion: str, **further: Any) -> TestTime:
    return TestTime.model_validate({"fusion": fusion, **further})


def scattered(seed: int, passes: int, count: int = 40) -> list[Detections]:
    """Boxes around ten places, of three classes, in order of their scores."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(passes):
        place = rng.integers(0, 10, count)
        corner = np.stack([place % 5 * 30, place // 5 * 40], -1) + rng.normal(0, 2, (count, 2))
        boxes = np.concatenate([corner, corner + 25 + rng.normal(0, 2, (count, 2))], -1)
        scores = np.sort(rng.uniform(0.01, 1, count))[::-1].copy()
        made.append(
            Detections(
                torch.from_numpy(boxes).float(), torch.from_numpy(scores).float(), torch.from_numpy(place % 3).long()
            )
        )
    return made


# The IoU of FIRST and SECOND is 100 / 120.
FIRST, SECOND, FAR = [0.0, 0, 10, 10], [0.0, 0, 10, 12], [50.0, 50, 60, 60]
PASSES = [
    found((FIRST, 0.9, 0), (FAR, 0.8, 0), (FIRST, 0.5, 1), crops=[1.0, 0.3, 0.2]),
    found((SECOND, 0.6, 0), crops=[0.0]),
]


def test_weighted_boxes_fusion() -> None:
    result = fuse(PASSES, settings("wbf"), limit=10)
    # 10.8 = (0.9 * 10 + 0.6 * 12) / 1.5; scores are means, halved where one of the two passes found it.
    torch.testing.assert_close(result.boxes, torch.tensor([[0.0, 0, 10, 10.8], FAR, FIRST]))
    torch.testing.assert_close(result.scores, torch.tensor([0.75, 0.4, 0.25]))
    assert result.labels.tolist() == [0, 0, 1]
    assert result.mask_crops is not None
    torch.testing.assert_close(result.mask_crops[:, 0, 0], torch.tensor([0.6, 0.3, 0.2]))  # 0.9 * 1 / 1.5


def test_weighted_boxes_fusion_as_its_authors_have_it() -> None:
    """Three passes, as `weighted_boxes_fusion` of ensemble-boxes 1.0.9 fuses them (iou_thr=0.7, conf_type='avg').

    A box joins a cluster by the cluster's mean, and six members of three passes count as three.
    """
    passes = [
        found(
            ([0.14, 0.05, 0.41, 0.49], 0.43, 0), ([0.09, 0.1, 0.36, 0.5], 0.59, 0), ([0.28, 0.27, 0.8, 0.59], 0.74, 0)
        ),
        found(
            ([0.09, 0.11, 0.4, 0.52], 0.66, 0),
            ([0.1, 0.1, 0.43, 0.51], 0.93, 0),
            ([0.29, 0.2, 0.81, 0.64], 0.21, 0),
            ([0.49, 0.5, 0.92, 0.88], 0.63, 1),
        ),
        found(
            ([0.11, 0.04, 0.42, 0.48], 0.85, 0), ([0.07, 0.11, 0.41, 0.49], 0.39, 0), ([0.28, 0.2, 0.8, 0.63], 0.48, 0)
        ),
    ]
    result = fuse(passes, settings("wbf", iou=0.7), limit=10)
    expected = [
        [0.10038960725069046, 0.08389610052108765, 0.4076623320579529, 0.49929869174957275],
        [0.28146854043006897, 0.23622377216815948, 0.801468551158905, 0.6107692718505859],
        [0.49, 0.5, 0.92, 0.88],
    ]
    # Both are of single precision in numbers below 1.
    torch.testing.assert_close(result.boxes, torch.tensor(expected), atol=1e-6, rtol=0)
    torch.testing.assert_close(result.scores, torch.tensor([0.6416666507720947, 0.476666659116745, 0.21]))
    assert result.labels.tolist() == [0, 0, 1]


def test_a_box_joins_the_mean_that_it_overlaps_most() -> None:
    one, two, between = [0.0, 0, 10, 10], [4.0, 0, 14, 10], [2.5, 0, 12.5, 10]  # IoU 3/7; then 0.6 and 0.74
    result = fuse([found((one, 0.9, 0), (two, 0.8, 0), (between, 0.4, 0))], settings("wbf", iou=0.5), limit=10)
    torch.testing.assert_close(result.boxes, torch.tensor([one, [3.5, 0, 13.5, 10]]))
    torch.testing.assert_close(result.scores, torch.tensor([0.9, 0.6]))


def test_box_voting() -> None:
    result = fuse(PASSES, settings("vote"), limit=10)
    torch.testing.assert_close(result.boxes, torch.tensor([[0.0, 0, 10, 10.8], FAR, FIRST]))
    torch.testing.assert_close(result.scores, torch.tensor([0.9, 0.8, 0.5]))  # as NMS leaves them
    assert result.labels.tolist() == [0, 0, 1]
    assert result.mask_crops is not None
    torch.testing.assert_close(result.mask_crops[:, 0, 0], torch.tensor([0.6, 0.3, 0.2]))


def test_soft_nms() -> None:
    linear = fuse(PASSES, settings("soft_nms"), limit=10)
    torch.testing.assert_close(linear.scores, torch.tensor([0.9, 0.8, 0.5, 0.6 * (1 - 100 / 120)]))
    assert linear.boxes.tolist() == [FIRST, FAR, FIRST, SECOND] and linear.labels.tolist() == [0, 0, 1, 0]
    assert linear.mask_crops is not None and linear.mask_crops[:, 0, 0].tolist() == pytest.approx([1, 0.3, 0.2, 0])
    gaussian = fuse(PASSES, settings("soft_nms", decay="gaussian", sigma=0.7), limit=10)
    softened = 0.6 * np.exp(-((100 / 120) ** 2) / 0.7)
    torch.testing.assert_close(gaussian.scores, torch.tensor([0.9, 0.8, 0.5, softened], dtype=torch.float32))
    assert fuse(PASSES, settings("soft_nms", min_score=0.2), limit=10).labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("seed", range(3))
def test_nms_is_torchvisions(seed: int) -> None:
    passes = scattered(seed, 4)
    boxes, scores, labels = (torch.cat([getattr(p, name) for p in passes]) for name in ("boxes", "scores", "labels"))
    kept = batched_nms(boxes.double(), scores.double(), labels, 0.5)
    result = fuse(passes, settings("nms", iou=0.5), limit=1000)
    assert len(kept) < len(boxes) / 2
    assert torch.equal(result.boxes, boxes[kept]) and torch.equal(result.scores, scores[kept])
    assert torch.equal(result.labels, labels[kept])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_order_of_passes_does_not_matter(fusion: str) -> None:
    passes = scattered(7, 3)
    twins = [Detections(p.boxes, p.scores.mul(10).round().div(10), p.labels) for p in passes]  # many equal scores
    for made in (passes, twins):
        first, *others = (fuse(order, settings(fusion), limit=30) for order in itertools.permutations(made))
        for other in others:
            for name in ("boxes", "scores", "labels"):
                assert torch.equal(getattr(first, name), getattr(other, name))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_fused_boxes(fusion: str) -> None:
    """Best first, no more than asked for, of a class that there is, and no farther out than what they are made of."""
    passes = scattered(11, 5)
    result = fuse(passes, settings(fusion), limit=17)
    assert result.boxes.shape == (17, 4) and result.boxes.dtype == result.scores.dtype == torch.float32
    assert (result.scores.diff() <= 0).all() and (result.scores <= 1).all() and result.labels.dtype == torch.int64
    everything = torch.cat([p.boxes for p in passes])
    assert (result.boxes >= everything.min(0).values - 1e-4).all()
    assert (result.boxes <= everything.max(0).values + 1e-4).all()
    more = fuse(passes, settings(fusion), limit=1000)
    for name in ("boxes", "scores", "labels"):
        assert torch.equal(getattr(more.first(17), name), getattr(result, name))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_nothing_to_fuse(fusion: str) -> None:
    for passes in ([found(), found()], [found((FIRST, 0.0005, 0))]):
        result = fuse(passes, settings(fusion), limit=10)
        assert result.boxes.shape == (0, 4) and result.scores.shape == result.labels.shape == (0,)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_box_without_an_area_is_an_object_of_its_own(fusion: str) -> None:
    point = [5.0, 5, 5, 5]
    result = fuse([found((FIRST, 0.9, 0), (point, 0.8, 0)), found((point, 0.7, 0))], settings(fusion), limit=10)
    assert result.boxes.tolist() == [FIRST, point, point] and torch.isfinite(result.scores).all()
