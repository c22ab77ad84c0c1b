"""The quality focal loss as class loss of query groups."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from codetr.losses.set_loss import CriterionConfig, SetCriterion
from codetr.structures import Assigned, DecoderOutput, Match, QueryGroup, Targets

SIZES = torch.tensor([[100.0, 200.0]])
LN2 = math.log(2)
# cxcywh (0.5, 0.5, 0.4, 0.4) in units of the image. NEAR lies inside it with IoU 1/2, FAR does not touch it.
OBJECT, NEAR, FAR = [60.0, 30.0, 140.0, 70.0], [0.5, 0.5, 0.2, 0.4], [0.9, 0.1, 0.1, 0.1]


def criterion(**settings: float) -> SetCriterion:
    return SetCriterion(CriterionConfig(class_loss="quality_focal", **{"class_weight": 1.0, **settings}))  # type: ignore[arg-type]


def one_image() -> Targets:
    valid = torch.tensor([[True, False]])
    return Targets(torch.tensor([[OBJECT, [0.0] * 4]]), torch.tensor([[1, 0]]), valid, (1,))


def output(logits: list[list[float]], *boxes: list[float]) -> DecoderOutput:
    return DecoderOutput(torch.tensor([[logits]]).requires_grad_(), torch.tensor([[list(boxes)]]).requires_grad_())


def group(queries: int, supervision: Match | Assigned | None = None) -> QueryGroup:
    nothing = torch.zeros(1, queries, 4)
    return QueryGroup("match", nothing, nothing, nothing, supervision or Match())


def class_term(prediction: DecoderOutput, queries: QueryGroup, **settings: float) -> Tensor:
    return criterion(**settings).group(queries, prediction, one_image(), SIZES)["match.0.cls"]


def test_the_target_of_a_matched_class_is_the_overlap_of_its_box() -> None:
    """All probabilities are 1/2: background costs log 2 / 4, an overlap of 1/2 nothing, one of 0 log 2 / 4."""
    found = class_term(output([[0.0, 0.0], [0.0, 0.0]], NEAR, FAR), group(2))
    assert found.item() == pytest.approx(3 * LN2 / 4, rel=1e-6)
    # A probability of 3/4 against a quality of 1/2: the cross-entropy times the square of a quarter.
    logit = math.log(3)
    entropy = -(0.5 * math.log(3 / 4) + 0.5 * math.log(1 / 4))
    found = class_term(output([[0.0, logit], [0.0, 0.0]], NEAR, FAR), group(2))
    assert found.item() == pytest.approx(3 * LN2 / 4 + entropy / 16, rel=1e-5)
    found = class_term(output([[0.0, logit], [0.0, 0.0]], NEAR, FAR), group(2), gamma=1.0)
    assert found.item() == pytest.approx(3 * LN2 / 2 + entropy / 4, rel=1e-5)


def test_it_is_divided_by_the_positives_and_weighted() -> None:
    target = [0.5, 0.5, 0.4, 0.4]
    supervision = Assigned(
        torch.tensor([[1, 1, 2, 0]]), torch.tensor([[target] * 4]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    )
    prediction = output([[0.0, 0.0]] * 4, NEAR, FAR, FAR, NEAR)
    found = class_term(prediction, group(4, supervision), class_weight=3.0)
    # Two positives: overlaps of 1/2 and of 0; the third is background, the fourth is left out.
    assert found.item() == pytest.approx(3 * (1 + 2 + 2) * LN2 / 4 / 2, rel=1e-6)


def test_boxes_get_no_gradient_from_it() -> None:
    prediction = output([[0.3, -0.2], [0.1, 0.0]], NEAR, FAR)
    class_term(prediction, group(2)).backward()  # type: ignore[no-untyped-call]
    assert prediction.boxes.grad is None or (prediction.boxes.grad == 0).all()
    assert prediction.logits.grad is not None and (prediction.logits.grad != 0).all()


def test_settings_without_effect_are_errors() -> None:
    with pytest.raises(ValidationError, match="alpha belongs to class_loss: focal"):
        CriterionConfig(class_loss="quality_focal", alpha=0.5)
    with pytest.raises(ValidationError, match="gamma must be at least 1"):
        CriterionConfig(class_loss="quality_focal", gamma=0.5)
