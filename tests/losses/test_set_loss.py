"""The loss of query groups: numbers by hand, normalisation, each kind of supervision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from codetr.losses import set_loss
from codetr.losses.set_loss import CriterionConfig, SetCriterion
from codetr.structures import Assigned, DecoderOutput, EncoderPrediction, Match, QueryGroup, Targets

SIZES = torch.tensor([[100.0, 200.0]])
LN2 = math.log(2)
YES, NO = 0.25 * 0.25 * LN2, 0.75 * 0.25 * LN2  # focal loss of a probability of 1/2: alpha 0.25, gamma 2
NEAR, FAR = [0.5, 0.5, 0.2, 0.4], [0.9, 0.1, 0.1, 0.1]
# cxcywh (0.5, 0.5, 0.4, 0.4) in units of the image. NEAR lies inside it: L1 0.2, IoU = GIoU = 0.5.
OBJECT = [60.0, 30.0, 140.0, 70.0]
LITERAL = {"cls": 2 * (YES + 3 * NO), "l1": 5 * 0.2, "giou": 2 * 0.5}
"""Two queries of two classes, probabilities 1/2, one object at the first: 2 * 0.625 ln 2 = 0.866, 1 and 1."""


def one_image(*boxes: list[float], labels: list[int] | None = None) -> Targets:
    """Objects of one image, padded by one more."""
    padded = torch.zeros(1, len(boxes) + 1, 4)
    padded[0, : len(boxes)] = torch.tensor(boxes).view(-1, 4)
    names = torch.tensor([[*(labels or [1] * len(boxes)), 0]])
    return Targets(padded, names, (torch.arange(len(boxes) + 1) < len(boxes))[None], (len(boxes),))


def output(*layers: list[list[float]], classes: int = 2) -> DecoderOutput:
    """The boxes of each layer; every probability is 1/2."""
    boxes = torch.tensor(layers)[:, None].requires_grad_()
    return DecoderOutput(torch.zeros(*boxes.shape[:3], classes, requires_grad=True), boxes)


def group(queries: int, supervision: Match | Assigned | None = None, **settings: object) -> QueryGroup:
    nothing = torch.zeros(1, queries, 4)
    return QueryGroup("match", nothing, nothing, nothing, supervision or Match(), **settings)  # type: ignore[arg-type]


def losses(
    prediction: DecoderOutput, targets: Targets, queries: QueryGroup | None = None, **config: float
) -> dict[str, Tensor]:
    criterion = SetCriterion(CriterionConfig(**config))  # type: ignore[arg-type]
    return criterion.group(queries or group(prediction.boxes.shape[2]), prediction, targets, SIZES)


def values(found: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in found.items()}


def layer(number: int, terms: dict[str, float], name: str = "match") -> dict[str, float]:
    return {f"{name}.{number}.{term}": value for term, value in terms.items()}


def approx(expected: dict[str, float]) -> object:
    return pytest.approx(expected, rel=1e-6, abs=1e-7)  # float32 sums of a handful of numbers near 1


def test_literal() -> None:
    found = losses(output([NEAR, FAR]), one_image(OBJECT))
    assert LITERAL["cls"] == pytest.approx(0.8664340)
    assert values(found) == approx(layer(0, LITERAL))
    assert all(value.shape == () and value.requires_grad for value in found.values())


def test_every_layer_is_matched_by_itself() -> None:
    found = losses(output([NEAR, FAR], [FAR, NEAR]), one_image(OBJECT))
    assert values(found) == approx(layer(0, LITERAL) | layer(1, LITERAL))


def test_each_weight_scales_its_own_term() -> None:
    found = losses(output([NEAR, FAR]), one_image(OBJECT), class_weight=1.0, l1_weight=10.0, giou_weight=0.0)
    assert values(found) == approx(layer(0, {"cls": YES + 3 * NO, "l1": 2.0, "giou": 0.0}))
    found = losses(output([NEAR, FAR]), one_image(OBJECT), alpha=0.5, gamma=0.0)
    assert found["match.0.cls"].item() == pytest.approx(2 * 4 * 0.5 * LN2, rel=1e-6)


def test_terms_are_divided_by_the_number_of_positives() -> None:
    shifted = [0.0, 30.0, 80.0, 70.0]  # cxcywh (0.2, 0.5, 0.4, 0.4)
    found = losses(output([NEAR, [0.2, 0.5, 0.2, 0.4], FAR]), one_image(OBJECT, shifted, labels=[1, 0]))
    sums = {"cls": 2 * (2 * YES + 4 * NO), "l1": 5 * 0.4, "giou": 2 * 1.0}
    assert values(found) == approx(layer(0, {term: value / 2 for term, value in sums.items()}))


def test_the_number_of_positives_is_agreed_on_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """`divisor` alone says what to divide by, below one object too."""
    seen: list[list[float]] = []

    def divisor(count: Tensor, *, result: float) -> Tensor:
        seen.append(count.tolist())
        return torch.full_like(count, result)

    for result in (4.0, 0.5):
        monkeypatch.setattr(set_loss, "divisor", lambda count, result=result: divisor(count, result=result))
        found = losses(output([NEAR, FAR]), one_image(OBJECT))
        assert values(found) == approx(layer(0, {term: value / result for term, value in LITERAL.items()}))
    assert seen == [[1.0], [1.0]]


def test_images_of_a_batch_share_the_sum() -> None:
    """One object in the first image, none in the second: the second adds its background to the class term alone."""
    prediction = output([NEAR, FAR])
    double = DecoderOutput(prediction.logits.repeat(1, 2, 1, 1), prediction.boxes.repeat(1, 2, 1, 1))
    one = one_image(OBJECT)
    valid = torch.tensor([[True, False], [False, False]])
    targets = Targets(one.boxes.repeat(2, 1, 1), one.labels.repeat(2, 1), valid, (1, 0))
    found = SetCriterion(CriterionConfig()).group(group(2), double, targets, SIZES.repeat(2, 1))
    assert values(found) == approx(layer(0, {**LITERAL, "cls": LITERAL["cls"] + 2 * 4 * NO}))


def test_objects_are_counted_on_the_device() -> None:
    """What the host believes has no part in it."""
    targets = one_image(OBJECT)
    found = losses(output([NEAR, FAR]), Targets(targets.boxes, targets.labels, targets.valid, (0,)))
    assert values(found) == approx(layer(0, LITERAL))


def test_without_objects_only_the_classes_are_trained() -> None:
    prediction = output([NEAR, FAR])
    found = losses(prediction, one_image())
    assert values(found) == approx(layer(0, {"cls": 2 * 4 * NO, "l1": 0.0, "giou": 0.0}))
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert prediction.boxes.grad is not None and (prediction.boxes.grad == 0).all()
    assert prediction.logits.grad is not None and (prediction.logits.grad > 0).all()


def assigned(labels: list[int], boxes: list[list[float]], weights: list[float]) -> Assigned:
    return Assigned(torch.tensor([labels]), torch.tensor([boxes]), torch.tensor([weights]))


def test_assigned_queries_keep_their_targets() -> None:
    """The second query is background, the third is left out; neither their boxes nor the image's objects matter."""
    target = [0.5, 0.5, 0.4, 0.4]
    supervision = assigned([1, 2, 0], [target, [9.0] * 4, [9.0] * 4], [1.0, 1.0, 0.0])
    prediction = output([NEAR, FAR, NEAR])
    found = losses(prediction, one_image([0.0, 0.0, 20.0, 10.0]), group(3, supervision))
    assert values(found) == approx(layer(0, LITERAL))
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert prediction.boxes.grad is not None and prediction.logits.grad is not None
    assert prediction.boxes.grad[0, 0].any(-1).tolist() == [True, False, False]
    assert prediction.logits.grad[0, 0].any(-1).tolist() == [True, True, False]


def test_assigned_queries_are_supervised_alike_in_every_layer() -> None:
    supervision = assigned([1, 2], [[0.5, 0.5, 0.4, 0.4], [0.0] * 4], [1.0, 1.0])
    found = losses(output([NEAR, FAR], [FAR, NEAR]), one_image(OBJECT), group(2, supervision))
    assert values(found)["match.0.l1"] == pytest.approx(1.0, rel=1e-6)
    # (0.9, 0.1, 0.1, 0.1) is 0.4 + 0.4 + 0.3 + 0.3 away.
    assert values(found)["match.1.l1"] == pytest.approx(5 * 1.4, rel=1e-6)


def test_the_weight_of_an_assigned_query_is_that_of_its_class_loss() -> None:
    supervision = assigned([1, 2], [[0.5, 0.5, 0.4, 0.4], [0.0] * 4], [0.5, 0.25])
    found = losses(output([NEAR, FAR]), one_image(), group(2, supervision))
    expected = {"cls": 2 * (0.5 * (YES + NO) + 0.25 * 2 * NO), "l1": LITERAL["l1"], "giou": LITERAL["giou"]}
    assert values(found) == approx(layer(0, expected))


def test_only_background_is_divided_by_one() -> None:
    supervision = assigned([2, 2], [[0.0] * 4, [0.0] * 4], [1.0, 1.0])
    found = losses(output([NEAR, FAR]), one_image(OBJECT), group(2, supervision))
    assert values(found) == approx(layer(0, {"cls": 2 * 4 * NO, "l1": 0.0, "giou": 0.0}))


def test_a_group_has_a_weight() -> None:
    found = losses(output([NEAR, FAR]), one_image(OBJECT), group(2, weight=3.0))
    assert values(found) == approx(layer(0, {term: 3 * value for term, value in LITERAL.items()}))


def test_invalid_queries_of_a_matched_group_take_no_part() -> None:
    """The third query is the object itself, yet the first gets it."""
    prediction = output([NEAR, FAR, [0.5, 0.5, 0.4, 0.4]])
    found = losses(prediction, one_image(OBJECT), group(3, valid=torch.tensor([[True, True, False]])))
    assert values(found) == approx(layer(0, LITERAL))
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert prediction.boxes.grad is not None and not prediction.boxes.grad[0, 0, 2].any()
    assert prediction.logits.grad is not None and not prediction.logits.grad[0, 0, 2].any()


def test_objects_are_repeated() -> None:
    found = losses(output([NEAR, NEAR, FAR]), one_image(OBJECT), group(3, Match(repeat=2)))
    sums = {"cls": 2 * (2 * YES + 4 * NO), "l1": 5 * 0.4, "giou": 2 * 1.0}
    assert values(found) == approx(layer(0, {term: value / 2 for term, value in sums.items()}))


def encoder_losses(*, class_agnostic: bool) -> tuple[dict[str, float], DecoderOutput]:
    prediction = output([NEAR, FAR])
    encoder = EncoderPrediction(prediction, class_agnostic, torch.ones(1, 2, dtype=torch.bool))
    found = SetCriterion(CriterionConfig()).encoder(encoder, one_image(OBJECT), SIZES)
    sum(found.values()).backward()  # type: ignore[union-attr]
    return values(found), prediction


@pytest.mark.parametrize(("class_agnostic", "channel"), [(True, 0), (False, 1)])
def test_the_encoder_counts_every_object_as_class_0_if_class_agnostic(class_agnostic: bool, channel: int) -> None:
    found, prediction = encoder_losses(class_agnostic=class_agnostic)
    assert found == approx({f"encoder.{term}": value for term, value in LITERAL.items()})
    # A negative gradient raises the logit: that of the object's channel alone.
    assert prediction.logits.grad is not None
    raised = (prediction.logits.grad[0, 0] < 0).nonzero().tolist()
    assert raised == [[0, channel]]


def test_a_number_that_is_not_finite_reaches_the_loss() -> None:
    prediction = output([NEAR, FAR])
    poisoned = DecoderOutput(prediction.logits * float("nan"), prediction.boxes)
    found = values(losses(poisoned, one_image(OBJECT)))
    assert math.isnan(found["match.0.cls"]) and math.isfinite(found["match.0.l1"])


def by_softmax(
    probabilities: list[list[float]], targets: Targets, queries: QueryGroup | None = None, **config: float
) -> dict[str, float]:
    """Losses of queries at NEAR and FAR (further ones at FAR), the last class of which is no object."""
    boxes = torch.tensor([NEAR, *[FAR] * (len(probabilities) - 1)])[None, None]
    prediction = DecoderOutput(torch.tensor(probabilities).log()[None, None], boxes)
    settings = CriterionConfig(**{"class_weight": 1.0, "cost": {"kind": "softmax"}, **config})  # type: ignore[arg-type]
    criterion = SetCriterion(settings, classification="softmax")
    return values(criterion.group(queries or group(len(probabilities)), prediction, targets, SIZES))


def test_softmax_divides_by_the_sum_of_the_weights() -> None:
    """The object's class has 1/2, the other query has no object with 1/4; its weight is a tenth."""
    rows = [[0.3, 0.5, 0.2], [0.5, 0.25, 0.25]]
    found = by_softmax(rows, one_image(OBJECT))
    assert found == approx(layer(0, {"cls": (LN2 + 0.1 * 2 * LN2) / 1.1, "l1": 1.0, "giou": 1.0}))
    found = by_softmax(rows, one_image(OBJECT), class_weight=3.0, no_object_weight=0.5)
    assert found["match.0.cls"] == pytest.approx(3 * (LN2 + 0.5 * 2 * LN2) / 1.5, rel=1e-6)


def test_softmax_without_objects() -> None:
    """Twelve queries weigh 1.2; a sum of weights below 1 counts as 1, so that none is no division by zero."""
    row = [0.5, 0.25, 0.25]
    assert by_softmax([row] * 12, one_image())["match.0.cls"] == pytest.approx(2 * LN2, rel=1e-6)
    assert by_softmax([row] * 2, one_image())["match.0.cls"] == pytest.approx(0.2 * 2 * LN2, rel=1e-6)


def test_softmax_of_assigned_queries() -> None:
    """Class 1 with 1/2, no object with 1/4, and one that is left out."""
    supervision = assigned([1, 2, 2], [[0.5, 0.5, 0.4, 0.4], [9.0] * 4, [9.0] * 4], [1.0, 1.0, 0.0])
    rows = [[0.3, 0.5, 0.2], [0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]
    found = by_softmax(rows, one_image(), group(3, supervision))
    assert found == approx(layer(0, {"cls": (LN2 + 0.1 * 2 * LN2) / 1.1, "l1": 1.0, "giou": 1.0}))


def test_softmax_of_a_group_whose_queries_are_all_left_out_is_zero() -> None:
    supervision = assigned([2, 2], [[0.5] * 4] * 2, [0.0, 0.0])
    found = by_softmax([[0.3, 0.5, 0.2]] * 2, one_image(OBJECT), group(2, supervision))
    assert found == approx(layer(0, {"cls": 0.0, "l1": 0.0, "giou": 0.0}))


def test_softmax_is_the_weighted_cross_entropy_of_torch() -> None:
    """As DETR calls it: the mean of weighted terms is their sum over the sum of the weights."""
    logits, labels = torch.randn(40, 3), torch.randint(0, 3, (40,))
    expected = torch.nn.functional.cross_entropy(logits, labels, torch.tensor([1.0, 1.0, 0.1]))
    supervision = assigned(labels.tolist(), [[0.5] * 4] * 40, [1.0] * 40)
    found = by_softmax(logits.softmax(-1).tolist(), one_image(), group(40, supervision))
    # Forty float32 terms near 1 through a logarithm and back.
    assert found["match.0.cls"] == pytest.approx(expected.item(), rel=1e-5)
