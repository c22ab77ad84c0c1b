"""The matching cost against literal values, a loop over single pairs, and the matchers of transformers.

The tests marked `literal` also run through the kernels, in the interpreter.
"""

from __future__ import annotations

import math

import pytest
import torch
from codetr_kernels import matching_cost
from codetr_kernels.matching_cost import INVALID_COST
from pairs import Pairs, class_cost_of, pair_cost, pairs, parts
from samples import DEVICE
from torch import Tensor

LN2 = math.log(2)
CENTRE, INNER = [0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.2, 0.4]
CENTRE_HALF = [0.5, 0.5, 0.5, 0.5]
LEFT, RIGHT = [0.125, 0.5, 0.25, 0.5], [0.75, 0.5, 0.5, 0.5]


def one_pair(
    logits: list[float], box: list[float], target: list[float], *, label: int = 0, **settings: object
) -> float:
    """One query and one object; only the weights given are not zero."""
    weights = {"class_weight": 0.0, "l1_weight": 0.0, "giou_weight": 0.0}
    found = matching_cost(
        torch.tensor([[[logits]]], device=DEVICE),
        torch.tensor([[[box]]], device=DEVICE),
        torch.tensor([[label]], device=DEVICE),
        torch.tensor([[target]], device=DEVICE),
        **weights | settings,  # type: ignore[arg-type]
    )
    assert found.shape == (1, 1, 1) and found.dtype == torch.float32
    return found.item()


def approx(value: float) -> object:
    return pytest.approx(value, rel=0, abs=1e-6)  # a handful of float32 roundings of numbers up to 4


@pytest.mark.literal
@pytest.mark.parametrize(
    ("logit", "expected"),
    [
        (0.0, -0.125 * LN2),  # probability 1/2: 1/4 * 1/4 ln 2 less 3/4 * 1/4 ln 2
        (math.log(3), 0.25 / 16 * math.log(4 / 3) - 0.75 * 9 / 16 * math.log(4)),  # 3/4
        (-math.log(3), 0.25 * 9 / 16 * math.log(4) - 0.75 / 16 * math.log(4 / 3)),  # 1/4
        (100.0, -75.0),  # 1: -3/4 ln(1 - p) alone
        (-100.0, 25.0),
    ],
)
def test_focal(logit: float, expected: float) -> None:
    assert one_pair([9.0, logit], INNER, CENTRE, label=1, class_weight=1.0) == pytest.approx(expected, rel=1e-6)


@pytest.mark.literal
def test_focal_has_an_alpha_and_a_gamma() -> None:
    found = one_pair([math.log(3)], INNER, CENTRE, class_weight=2.0, alpha=0.5, gamma=1.0)
    assert found == approx(2 * 0.5 * (0.25 * math.log(4 / 3) - 0.75 * math.log(4)))
    # Without either it is the difference of the two logarithms: minus the logit.
    assert one_pair([1.5], INNER, CENTRE, class_weight=2.0, alpha=0.5, gamma=0.0) == approx(-1.5)


@pytest.mark.literal
@pytest.mark.parametrize(("label", "expected"), [(0, -0.125), (1, -0.25), (2, -0.625)])
def test_softmax(label: int, expected: float) -> None:
    logits = [0.0, LN2, math.log(5)]
    assert one_pair(logits, INNER, CENTRE, label=label, class_cost="softmax", class_weight=1.0) == approx(expected)
    assert one_pair(logits, INNER, CENTRE, label=label, class_cost="softmax", class_weight=3.0) == approx(3 * expected)


@pytest.mark.literal
def test_softmax_of_large_logits_and_of_a_class_shut_out() -> None:
    settings = {"class_cost": "softmax", "class_weight": 1.0}
    # The logarithm of the sum, near 1000, is rounded by 2**-15 at most.
    assert one_pair([1e3, 1e3], INNER, CENTRE, **settings) == pytest.approx(-0.5, rel=2**-15)
    assert one_pair([0.0, -math.inf, 0.0], INNER, CENTRE, **settings) == approx(-0.5)
    assert one_pair([-math.inf, 0.0], INNER, CENTRE, **settings) == 0.0


@pytest.mark.literal
@pytest.mark.parametrize(
    ("box", "target", "distance", "giou"),
    [
        (CENTRE, CENTRE, 0.0, 1.0),
        (INNER, CENTRE, 0.2, 0.5),  # inside: the hull is the union
        (LEFT, RIGHT, 0.875, -0.25),  # union 3/8, hull 1/2
        ([0.25, 0.25, 0.5, 0.5], CENTRE_HALF, 0.5, 1 / 7 - 2 / 9),  # 1/16 of 7/16, in a hull of 9/16
        (LEFT, [0.125, 0.5, 0.0, 0.5], 0.25, 0.0),  # no width: no area, in a hull of the other
        ([0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], 0.0, 0.0),  # 1e-7 of each
        ([0.5, 0.5, -0.5, -0.5], CENTRE_HALF, 2.0, 0.0),  # corners the wrong way round: no area
    ],
)
def test_boxes(box: list[float], target: list[float], distance: float, giou: float) -> None:
    assert one_pair([0.0], box, target, l1_weight=1.0) == approx(distance)
    assert one_pair([0.0], box, target, l1_weight=5.0) == approx(5 * distance)
    assert one_pair([0.0], box, target, giou_weight=1.0) == approx(-giou)
    assert one_pair([0.0], target, box, giou_weight=2.0) == approx(-2 * giou)


@pytest.mark.literal
def test_the_terms_are_summed() -> None:
    found = one_pair([0.0], INNER, CENTRE, class_weight=2.0, l1_weight=5.0, giou_weight=2.0)
    assert found == approx(-0.25 * LN2 + 1.0 - 1.0)


@pytest.mark.literal
def test_objects_are_rows_and_queries_columns_layer_after_layer() -> None:
    """Boxes of one size along x: the distance is that of the centres."""

    def along_x(centres: list[float]) -> Tensor:
        return torch.tensor([[x, 0.5, 0.25, 0.25] for x in centres], device=DEVICE)

    boxes = torch.stack([along_x([0.0, 1.0, 2.0]), along_x([10.0, 11.0, 12.0])])
    found = matching_cost(
        torch.zeros(2, 2, 3, 1, device=DEVICE),
        torch.stack([boxes, boxes + 100 * torch.tensor([1.0, 0, 0, 0], device=DEVICE)]),
        torch.zeros(2, 2, dtype=torch.int64, device=DEVICE),
        torch.stack([along_x([0.0, 0.5]), along_x([10.0, 10.25])]),
        class_weight=0.0,
        l1_weight=1.0,
        giou_weight=0.0,
    )
    assert found.tolist() == [
        [[0.0, 1.0, 2.0], [0.5, 0.5, 1.5]],
        [[0.0, 1.0, 2.0], [0.25, 0.75, 1.75]],
        [[100.0, 101.0, 102.0], [99.5, 100.5, 101.5]],
        [[100.0, 101.0, 102.0], [99.75, 100.75, 101.75]],
    ]


@pytest.mark.literal
def test_a_query_that_is_not_valid_costs_more_than_any_other() -> None:
    problem = pairs()
    every, some = problem.cost(), problem.cost(valid=problem.valid)
    valid = problem.valid.repeat(2, 1)[:, None].expand_as(some)
    assert (some[~valid] == INVALID_COST).all() and not valid.all()
    assert torch.equal(some[valid], every[valid])
    assert every.abs().max() < INVALID_COST / 100


@pytest.mark.literal
@pytest.mark.parametrize("class_cost", ["focal", "softmax"])
def test_a_loop_over_single_pairs(class_cost: str) -> None:
    problem = pairs(dtype=torch.float64)
    found = problem.cost(class_cost=class_cost)
    for row, objects, queries in torch.cartesian_prod(*map(torch.arange, found.shape)).tolist():
        wanted = pair_cost(problem, divmod(row, 2), objects, queries, class_cost)
        assert found[row, objects, queries].item() == pytest.approx(wanted, rel=1e-12, abs=1e-12)


@pytest.mark.literal
@pytest.mark.parametrize("class_cost", ["focal", "softmax"])
def test_the_matchers_of_transformers(class_cost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are asked for their costs by way of the solver that they call."""
    from transformers.loss import loss_deformable_detr, loss_for_object_detection

    module = {"focal": loss_deformable_detr, "softmax": loss_for_object_detection}[class_cost]
    name = {"focal": "DeformableDetrHungarianMatcher", "softmax": "HungarianMatcher"}[class_cost]
    problem = pairs(dtype=torch.float64)
    seen: list[Tensor] = []

    def solver(cost: Tensor) -> tuple[list[int], list[int]]:
        seen.append(cost)
        return [], []

    monkeypatch.setattr(module, "linear_sum_assignment", solver)
    matcher = getattr(module, name)(class_cost=2.0, bbox_cost=5.0, giou_cost=2.0)
    for logits, boxes in zip(problem.logits.cpu(), problem.boxes.cpu(), strict=True):
        targets = [
            {"class_labels": labels, "boxes": corners}
            for labels, corners in zip(problem.labels.cpu(), problem.target_boxes.cpu(), strict=True)
        ]
        matcher({"logits": logits, "pred_boxes": boxes}, targets)
    wanted = torch.stack(seen).transpose(1, 2).to(DEVICE)
    # transformers adds 1e-8 to probabilities before their logarithm: 1e-8 / p, and no p is below 0.01.
    torch.testing.assert_close(problem.cost(class_cost=class_cost), wanted, rtol=0, atol=4e-6)


@pytest.mark.literal
@pytest.mark.parametrize("label", [-1, -(10**12), 10**12])
def test_padding_may_hold_anything(label: int) -> None:
    problem = pairs()
    counts = torch.tensor([2, 0], device=DEVICE)
    wanted = problem.cost(num_objects=counts)
    problem.labels[0, 2:], problem.labels[1] = label, label
    problem.target_boxes[0, 2:], problem.target_boxes[1] = math.nan, math.nan
    found = problem.cost(num_objects=counts)
    assert torch.equal(found[::2, :2], wanted[::2, :2]) and found[::2, :2].isfinite().all()


@pytest.mark.literal
def test_a_label_outside_counts_as_the_nearest_class() -> None:
    problem = pairs()
    problem.labels[:] = torch.tensor([-7, 99, 2], device=DEVICE)
    found = problem.cost()
    problem.labels[:] = torch.tensor([0, 4, 2], device=DEVICE)
    assert torch.equal(found, problem.cost())


@pytest.mark.literal
@pytest.mark.parametrize("class_cost", ["focal", "softmax"])
def test_a_number_that_is_none_stays_where_it_is(class_cost: str) -> None:
    problem = pairs()
    problem.logits[0, 0, 1] = math.nan
    problem.boxes[1, 1, 3, 2] = math.nan
    found = problem.cost(class_cost=class_cost)
    assert found[0, :, 1].isnan().all() and found[3, :, 3].isnan().all()
    assert found.isnan().sum() == 2 * 3


@pytest.mark.literal
def test_sizes_of_zero() -> None:
    for settings in ({"objects": 0}, {"queries": 0}, {"layers": 0}):
        problem = pairs(**settings)
        (layers, images, queries, _), objects = problem.logits.shape, problem.labels.shape[1]
        for class_cost in ("focal", "softmax"):
            assert problem.cost(class_cost=class_cost).shape == (layers * images, objects, queries)


@pytest.mark.literal
def test_the_cost_is_in_single_precision_at_least_and_without_a_graph() -> None:
    problem = pairs()
    problem.logits.requires_grad_()
    found = problem.cost()
    assert found.dtype == torch.float32 and not found.requires_grad
    assert parts(problem, torch.bfloat16).cost().dtype == torch.float32
    assert parts(problem, torch.float64).cost().dtype == torch.float64
    with torch.autocast(DEVICE, torch.bfloat16):
        assert torch.equal(problem.cost(), found)


def test_the_class_cost_of_the_loop_is_the_focal_loss() -> None:
    """By the loss of torchvision, of a yes and of a no."""
    from torchvision.ops import sigmoid_focal_loss

    logit = torch.tensor(0.7, dtype=torch.float64)
    yes, no = (sigmoid_focal_loss(logit, torch.tensor(goal, dtype=torch.float64)) for goal in (1.0, 0.0))
    assert class_cost_of([0.0, 0.7], 1, "focal") == pytest.approx((yes - no).item(), rel=1e-12)


def wrong(**changes: object) -> None:
    problem = pairs()
    names = ("logits", "boxes", "labels", "target_boxes", "num_objects", "valid")
    given = {name: getattr(problem, name) for name in names} | changes
    matching_cost(**given, class_weight=1.0, l1_weight=1.0, giou_weight=1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": torch.zeros(2, 4, 5)}, r"logits must be \(L, B, N, K\) with K >= 1, got \(2, 4, 5\)"),
        ({"logits": torch.zeros(2, 2, 4, 0)}, r"K >= 1, got \(2, 2, 4, 0\)"),
        ({"boxes": torch.zeros(2, 2, 5, 4)}, r"boxes must be \(2, 2, 4, 4\), got \(2, 2, 5, 4\)"),
        ({"labels": torch.zeros(2, 3)}, r"labels must be int64 \(B, M\), B = 2, got torch.float32 \(2, 3\)"),
        ({"labels": torch.zeros(3, 3, dtype=torch.int64)}, r"labels must be .* got torch.int64 \(3, 3\)"),
        ({"target_boxes": torch.zeros(2, 3, 2)}, r"target_boxes must be \(2, 3, 4\), got \(2, 3, 2\)"),
        ({"num_objects": torch.zeros(3, dtype=torch.int64)}, r"num_objects must be int \(B,\), B = 2, got .* \(3,\)"),
        ({"num_objects": torch.zeros(2)}, r"num_objects must be int \(B,\), B = 2, got torch.float32 \(2,\)"),
        ({"valid": torch.zeros(2, 4)}, r"valid must be bool \(2, 4\), got torch.float32 \(2, 4\)"),
        (
            {"boxes": torch.zeros(2, 2, 4, 4, dtype=torch.int64)},
            "floating-point, got torch.float32, torch.int64",
        ),
        ({"labels": torch.zeros(2, 3, dtype=torch.int64, device="meta")}, r"one device needed, got cpu, meta"),
        ({"class_cost": "sigmoid"}, r'class_cost must be "focal" or "softmax", got \'sigmoid\''),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pairs.DEVICE", "cpu")
    with pytest.raises(ValueError, match=message):
        wrong(**changes)


def test_the_samples_are_what_the_tests_need() -> None:
    problem = pairs()
    assert isinstance(problem, Pairs)
    assert problem.target_boxes[..., 2:].min() >= 0.25 and problem.boxes[..., 2:].min() >= 0.25
    assert problem.logits.softmax(-1).min() > 0.01 and problem.logits.sigmoid().min() > 0.01
