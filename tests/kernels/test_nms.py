"""Greedy suppression: literal cases, which every implementation is held to, and torchvision on CPUs."""

from __future__ import annotations

import builtins
import sys

import pytest
import torch
from codetr_kernels import batched_nms, batched_nms_reference
from samples import DEVICE
from suppression import Scored, chain, greedy, random, rows, scored
from torchvision.ops import batched_nms as torchvision_batched_nms

INF, NAN = float("inf"), float("nan")

# 1 overlaps 0 by 0.9, 2 by 0.5 (which is not more than the threshold); 3 lies apart.
BOXES = [[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 5], [50, 50, 60, 60]]
SCORES = [0.9, 0.8, 0.7, 0.95]


def run(problem: Scored, *, iou_threshold: float = 0.5, limit: int = 10) -> list[list[int]]:
    index, kept = batched_nms(*problem.arguments(), iou_threshold=iou_threshold, limit=limit)
    assert (index.dtype, kept.dtype) == (torch.int64, torch.bool)
    assert index.shape == kept.shape == (len(problem.boxes), min(limit, problem.boxes.shape[1]))
    return rows(index, kept)


@pytest.mark.literal
def test_the_best_first_and_nothing_that_it_overlaps() -> None:
    assert run(scored(BOXES, SCORES)) == [[3, 0, 2]]


@pytest.mark.literal
def test_within_a_group_only() -> None:
    assert run(scored(BOXES, SCORES, [0, 5, 5, 0])) == [[3, 0, 1]]
    assert run(scored(BOXES, SCORES, [7, 2**31 - 1, 7, 7])) == [[3, 0, 1, 2]]


@pytest.mark.literal
def test_what_is_not_valid_is_neither_kept_nor_suppresses() -> None:
    assert run(scored(BOXES, SCORES, valid=[False, True, True, True])) == [[3, 1]]
    assert run(scored(BOXES, SCORES, valid=[False] * 4)) == [[]]


@pytest.mark.literal
def test_of_equal_scores_the_lower_index_is_first() -> None:
    assert run(scored(BOXES, [0.5] * 4)) == [[0, 2, 3]]
    assert run(scored([BOXES[0]] * 5, [0.5] * 5)) == [[0]]


@pytest.mark.literal
def test_limit() -> None:
    assert run(scored(BOXES, SCORES), limit=2) == [[3, 0]]
    assert run(scored(BOXES, SCORES), limit=1) == [[3]]


@pytest.mark.literal
def test_what_is_suppressed_does_not_suppress() -> None:
    """Of a row of boxes, each over the next, every other one stays."""
    falling = [1 - 0.01 * i for i in range(9)]
    assert run(scored(chain(9), falling), iou_threshold=0.4) == [[0, 2, 4, 6, 8]]
    # The last has the best score.
    assert run(scored(chain(4), falling[3::-1]), iou_threshold=0.4) == [[3, 1]]


@pytest.mark.literal
@pytest.mark.parametrize("tenths", [1, 3, 6, 7, 9])
def test_as_much_as_the_threshold_is_not_more(tenths: int) -> None:
    problem = scored([[0.0, 0, 70, 1], [0, 0, 7 * tenths, 1]], [0.9, 0.8])
    assert run(problem, iou_threshold=tenths / 10) == [[0, 1]]
    assert run(problem, iou_threshold=tenths / 10 - 1e-6) == [[0]]


@pytest.mark.literal
def test_thresholds_at_the_ends() -> None:
    problem = scored([[0.0, 0, 10, 10], [9, 9, 19, 19], [0, 0, 10, 10], [10, 10, 20, 20]], [0.9, 0.8, 0.7, 0.6])
    assert run(problem, iou_threshold=0.0) == [[0, 3]]
    assert run(problem, iou_threshold=1.0) == [[0, 1, 2, 3]]


@pytest.mark.literal
def test_a_score_that_is_no_number_is_not_valid() -> None:
    assert run(scored(BOXES, [NAN, 0.8, 0.7, 0.95])) == [[3, 1]]
    assert run(scored(BOXES, [NAN] * 4)) == [[]]
    assert run(scored(BOXES, [-INF, 0.8, INF, -INF], [0, 1, 2, 3])) == [[2, 1, 0, 3]]


@pytest.mark.literal
@pytest.mark.parametrize(
    "odd",
    [
        [5.0, 0, 5, 10],  # no width
        [0.0, 0, 0, 0],
        [10.0, 10, 0, 0],  # both sides negative: their product is an area
        [0.0, 0, INF, 10],
        [-INF, -INF, INF, INF],
        [NAN, 0, 10, 10],
        [0.0, 0, 10, NAN],
    ],
)
def test_a_box_without_a_finite_area_overlaps_nothing(odd: list[float]) -> None:
    assert run(scored([odd, [0.0, 0, 10, 10], odd], [0.9, 0.8, 0.7]), iou_threshold=0.0) == [[0, 1, 2]]


@pytest.mark.literal
@pytest.mark.parametrize(("batch", "count"), [(2, 0), (0, 3), (0, 0)])
def test_no_boxes(batch: int, count: int) -> None:
    problem = scored(torch.zeros(batch, count, 4), torch.zeros(batch, count))
    assert run(problem) == [[]] * batch


@pytest.mark.literal
def test_images_are_apart() -> None:
    problem = scored(torch.tensor([BOXES, BOXES[::-1]]), torch.tensor([SCORES, SCORES[::-1]]))
    assert run(problem) == [[3, 0, 2], [0, 3, 1]]


@pytest.mark.parametrize("limit", [1, 7, 200, 500])
@pytest.mark.parametrize("groups", [1, 4, 200])
def test_equals_torchvision(groups: int, limit: int) -> None:
    corner = torch.rand(3, 200, 2) * 60
    boxes = torch.cat([corner, corner + 5 + torch.rand(3, 200, 2) * 40], dim=-1)
    scores, group = torch.rand(3, 200), torch.randint(0, groups, (3, 200))
    images = zip(boxes.double(), scores.double(), group, strict=True)
    expected = [torchvision_batched_nms(*image, 0.5)[:limit].tolist() for image in images]
    # By the form for CPUs: 200 boxes are too many for an interpreter.
    valid = torch.ones_like(scores, dtype=torch.bool)
    assert rows(*batched_nms_reference(boxes, scores, group, valid, iou_threshold=0.5, limit=limit)) == expected


def test_looks_as_far_as_it_must() -> None:
    """2000 copies, and then a box apart: beyond several prefixes of the fewest boxes, with limits beside them."""
    boxes = torch.tensor(BOXES[:1] * 2000 + BOXES[3:])
    problem = scored(boxes, torch.linspace(1, 0.1, 2001))
    for limit in (2, 255, 256, 257, 3000):
        assert rows(*batched_nms_reference(*problem.arguments(), iou_threshold=0.5, limit=limit)) == [[0, 2000]]


@pytest.mark.parametrize("limit", [3, 300, 1000])
def test_equals_a_loop_across_prefixes(limit: int) -> None:
    problem = random(2, 700, side=300)
    found = rows(*batched_nms_reference(*problem.arguments(), iou_threshold=0.3, limit=limit))
    assert found == greedy(problem, iou_threshold=0.3, limit=limit)


def test_many_groups_far_from_the_origin_lose_no_precision() -> None:
    """Offsets of 2**31 groups would cost a float64 22 bits more than there are to spare."""
    # IoU 0.5 and a little more; by 2**-20 pixels.
    boxes = torch.tensor([[1e4, 0, 1e4 + 10, 10], [1e4, 0, 1e4 + 10, 5 + 2**-20]], dtype=torch.float64)
    groups = [2**31 - 1, 2**31 - 1, 0, 0]
    problem = scored(boxes.repeat(2, 1), [0.9, 0.8, 0.7, 0.6], groups)
    assert run(problem) == [[0, 2]]
    boxes[1, 3] = 5
    assert run(scored(boxes.repeat(2, 1), [0.9, 0.8, 0.7, 0.6], groups)) == [[0, 1, 2, 3]]


def test_without_torchvision_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, real = scored(BOXES, SCORES), builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("torchvision"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "torchvision.ops", raising=False)
    with pytest.raises(ImportError, match=r"torchvision\.ops\.nms where it has no kernel.*pip install torchvision"):
        batched_nms_reference(*problem.arguments(), iou_threshold=0.5, limit=3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("boxes", torch.zeros(1, 4), r"boxes must be \(B, N, 4\), got \(1, 4\)"),
        ("boxes", torch.zeros(1, 4, 4, dtype=torch.int64), "must be floating-point, got torch.int64 and torch.float32"),
        ("scores", torch.zeros(1, 3), r"scores must be \(1, 4\) as boxes, got \(1, 3\)"),
        ("groups", torch.zeros(1, 4), "groups must be int64, got torch.float32"),
        ("valid", torch.zeros(1, 4), "valid must be bool, got torch.float32"),
        (
            "valid",
            torch.zeros(1, 4, dtype=torch.bool, device="meta"),
            "one device needed, got boxes on .*, valid on meta",
        ),
        ("iou_threshold", 1.5, "iou_threshold must be between 0 and 1, got 1.5"),
        ("iou_threshold", NAN, "iou_threshold must be between 0 and 1, got nan"),
        ("limit", 0, "limit must be at least 1, got 0"),
    ],
)
def test_arguments_that_do_not_fit(name: str, value: object, message: str) -> None:
    boxes, scores, groups, valid = scored(BOXES, SCORES).arguments()
    given = {"boxes": boxes, "scores": scores, "groups": groups, "valid": valid, "iou_threshold": 0.5, "limit": 3}
    if isinstance(value, torch.Tensor) and value.device.type != "meta":
        value = value.to(DEVICE)
    with pytest.raises(ValueError, match=message):
        batched_nms(**{**given, name: value})
