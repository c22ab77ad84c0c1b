"""Soft suppression: literal cases, and a plain loop in float64, for every implementation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from codetr_kernels import soft_nms, soft_nms_reference
from samples import DEVICE
from suppression import Scored, gaussian, linear, random, rows, scored, soft
from torch import Tensor

INF, NAN = float("inf"), float("nan")

# IoU of 0 and 1: 0.8, of 0 and 2: 0.4, of 1 and 2: 0.5; 3 lies apart.
BOXES = [[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 4], [50, 50, 60, 60]]
SCORES = [0.9, 0.8, 0.6, 0.5]


def check(
    found: tuple[Tensor, Tensor, Tensor], expected: list[list[tuple[int, float]]], *, tolerance: float = 2e-7
) -> None:
    """Same picks; scores within some roundings of 2**-24 each, of numbers up to one."""
    index, scores, kept = found
    assert rows(index, kept) == [[i for i, _ in row] for row in expected]
    for row, wanted in zip(scores.double().tolist(), expected, strict=True):
        assert row == pytest.approx([score for _, score in wanted] + [0.0] * (len(row) - len(wanted)), abs=tolerance)


def run(problem: Scored, *, limit: int = 10, **settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    found = soft_nms(*problem.arguments(), limit=limit, **settings)
    assert [tensor.dtype for tensor in found] == [torch.int64, problem.scores.dtype, torch.bool]
    assert {tensor.shape for tensor in found} == {(len(problem.boxes), min(limit, problem.boxes.shape[1]))}
    return found


@pytest.mark.literal
def test_linear() -> None:
    # 1 falls to 0.8 * (1 - 0.8); its IoU with 2 is not more than the threshold.
    check(run(scored(BOXES, SCORES)), [[(0, 0.9), (2, 0.6), (3, 0.5), (1, 0.16)]])
    # 2 falls to 0.6 * 0.6; 1 to 0.16, and then by half.
    check(run(scored(BOXES, SCORES), iou_threshold=0.3), [[(0, 0.9), (3, 0.5), (2, 0.36), (1, 0.08)]])


@pytest.mark.literal
def test_gaussian() -> None:
    two = 0.6 * math.exp(-(0.4**2) / 0.5)
    one = 0.8 * math.exp(-(0.8**2) / 0.5) * math.exp(-(0.5**2) / 0.5)
    assert (two, one) == pytest.approx((0.4356894, 0.1349105))
    check(run(scored(BOXES, SCORES), method="gaussian"), [[(0, 0.9), (3, 0.5), (2, two), (1, one)]])


@pytest.mark.literal
def test_what_falls_below_the_least_score_is_dropped() -> None:
    check(run(scored(BOXES, SCORES), min_score=0.2), [[(0, 0.9), (2, 0.6), (3, 0.5)]])
    check(run(scored(BOXES, SCORES), min_score=0.55), [[(0, 0.9), (2, 0.6)]])
    check(run(scored(BOXES, SCORES), min_score=0.95), [[]])
    # As much as the least score is not below it.
    check(run(scored(BOXES[:1], [0.5]), min_score=0.5), [[(0, 0.5)]])


@pytest.mark.literal
def test_within_a_group_only() -> None:
    check(run(scored(BOXES, SCORES, [0, 1, 0, 1])), [[(0, 0.9), (1, 0.8), (2, 0.6), (3, 0.5)]])
    check(
        run(scored(BOXES, SCORES, [0, 2**31 - 1, 2**31 - 1, 0]), iou_threshold=0.4),
        [[(0, 0.9), (1, 0.8), (3, 0.5), (2, 0.3)]],
    )


@pytest.mark.literal
def test_limit_and_what_is_not_valid() -> None:
    check(run(scored(BOXES, SCORES), limit=2), [[(0, 0.9), (2, 0.6)]])
    check(run(scored(BOXES, SCORES, valid=[False, True, True, True])), [[(1, 0.8), (2, 0.6), (3, 0.5)]])
    check(run(scored(BOXES, SCORES, valid=[False] * 4)), [[]])


@pytest.mark.literal
def test_of_equal_scores_the_lower_index_is_picked() -> None:
    check(run(scored([BOXES[0], BOXES[3], BOXES[0]], [0.5] * 3)), [[(0, 0.5), (1, 0.5)]])
    # A copy of a picked box has no score left; with no least score, it is picked with zero, and never again.
    check(run(scored([BOXES[0], BOXES[3], BOXES[0]], [0.5] * 3), min_score=0.0), [[(0, 0.5), (1, 0.5), (2, 0.0)]])


@pytest.mark.literal
@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("odd", [[5.0, 0, 5, 10], [10.0, 10, 0, 0], [0.0, 0, INF, 10], [NAN, 0, 10, 10]])
def test_a_box_without_a_finite_area_overlaps_nothing(odd: list[float], method: str) -> None:
    problem = scored([odd, BOXES[0], odd], [0.9, 0.8, 0.7])
    check(run(problem, method=method), [[(0, 0.9), (1, 0.8), (2, 0.7)]])


@pytest.mark.literal
def test_scores_that_are_no_numbers() -> None:
    index, scores, kept = run(scored(BOXES, [NAN, INF, -INF, 0.5]))
    assert rows(index, kept) == [[1, 3]]
    assert scores[0, 0] == torch.finfo(torch.float32).max


@pytest.mark.literal
@pytest.mark.parametrize(("batch", "count"), [(2, 0), (0, 3)])
def test_no_boxes(batch: int, count: int) -> None:
    check(run(scored(torch.zeros(batch, count, 4), torch.zeros(batch, count))), [[]] * batch)


CASES = [("linear", {"iou_threshold": 0.3}, linear(0.3)), ("gaussian", {"sigma": 0.4}, gaussian(0.4))]
# 20 factors of a score below one, each off by a few roundings: 5 of the IoU, 2 of the weight, 1 of the product.
FLOAT32 = 20 * 8 * 2**-24


@pytest.mark.parametrize("groups", [1, 5])
@pytest.mark.parametrize(("method", "settings", "weight"), CASES)
def test_the_reference_equals_a_loop(
    method: str, settings: dict[str, float], weight: Callable[[float], float], groups: int
) -> None:
    problem = random(3, 60, groups=groups)
    found = soft_nms_reference(*problem.arguments(), method=method, min_score=0.05, limit=40, **settings)
    check(found, soft(problem, weight=weight, min_score=0.05, limit=40), tolerance=FLOAT32)


@pytest.mark.kernel
@pytest.mark.usefixtures("garbage")
@pytest.mark.parametrize("block", [8, 1024])
@pytest.mark.parametrize(("method", "settings", "weight"), CASES)
def test_the_kernel_equals_a_loop(
    method: str,
    settings: dict[str, float],
    weight: Callable[[float], float],
    block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from codetr_kernels.nms.triton import launch

    monkeypatch.setattr(launch, "SOFT_BLOCK", block)
    problem = random(2, 20, groups=2, side=30)
    found = run(problem, method=method, min_score=0.05, limit=12, **settings)
    check(found, soft(problem, weight=weight, min_score=0.05, limit=12), tolerance=FLOAT32)


@pytest.mark.kernel
@pytest.mark.usefixtures("garbage")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_types(dtype: torch.dtype) -> None:
    """Arithmetic of float32, results in the type of the scores; float64 stays float64."""
    problem = random(1, 12, groups=2, side=30, dtype=dtype)
    found = run(problem, method="gaussian", sigma=0.4, min_score=0.05, limit=8)
    # The loop has the numbers as they were rounded; the interpreter cuts bits off where a GPU rounds.
    tolerance = {torch.float64: 1e-14, torch.float16: 2**-11, torch.bfloat16: 2**-8}[dtype]
    check(found, soft(problem, weight=gaussian(0.4), min_score=0.05, limit=8), tolerance=tolerance)


@pytest.mark.kernel
@pytest.mark.usefixtures("garbage")
def test_tensors_that_are_not_contiguous() -> None:
    problem = random(3, 10, groups=2, side=20)
    wanted = run(problem, limit=6)
    turned = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in problem.arguments()]
    for a, b in zip(soft_nms(*turned, limit=6), wanted, strict=True):
        assert torch.equal(a, b)


def test_settings_that_do_not_fit() -> None:
    arguments = scored(BOXES, SCORES).arguments()
    for settings, message in (
        ({"method": "hard"}, 'method must be "linear" or "gaussian", got \'hard\''),
        ({"sigma": 0.0}, "sigma must be positive and finite, got 0.0"),
        ({"min_score": -0.1}, "min_score must be at least 0 and finite, got -0.1"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            soft_nms(*arguments, **{"limit": 3, **settings})


@pytest.mark.gpu
@pytest.mark.kernel
@pytest.mark.parametrize("count", [1, 31, 300, 900, 1024, 1025, 24000])
@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_sizes(method: str, count: int) -> None:
    assert DEVICE == "cuda"
    problem = random(3, count, groups=4, side=600)
    settings: dict[str, Any] = {"method": method, "limit": 300}
    index, scores, kept = soft_nms(*problem.arguments(), **settings)
    wanted = soft_nms_reference(*(tensor.cpu() for tensor in problem.arguments()), **settings)
    # Two scores closer than their roundings may change places.
    torch.testing.assert_close(scores.cpu(), wanted[1], rtol=0, atol=FLOAT32)
    assert torch.equal(kept.cpu(), wanted[2])
    assert (index.cpu() == wanted[0]).float().mean() > 0.99
