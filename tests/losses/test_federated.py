"""What does not count in a federated class loss has neither a loss nor a gradient, to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codetr.losses.federated import UNCOUNTED, only_counted
from codetr.losses.focal import binary_cross_entropy, one_hot, quality_focal_loss, sigmoid_focal_loss_rows
from codetr.losses.set_loss import CriterionConfig, SetCriterion
from codetr.structures import Assigned, DecoderOutput, EncoderPrediction, Match, QueryGroup, Targets

K = 5
LABELS = torch.tensor([[1, K, 3], [0, 0, K]])  # (B, N), K = background
COUNTED = torch.tensor([[False, True, False, True, True], [True, False, True, False, False]])


def logits(dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(2, 3, K, generator=generator)).to(dtype).requires_grad_()


def focal(x: Tensor, labels: Tensor) -> Tensor:
    return sigmoid_focal_loss_rows(x, labels)


def odd_focal(x: Tensor, labels: Tensor) -> Tensor:
    return sigmoid_focal_loss_rows(x, labels, gamma=0.5)


def plain_focal(x: Tensor, labels: Tensor) -> Tensor:
    return sigmoid_focal_loss_rows(x, labels, gamma=0.0)


def quality_focal(x: Tensor, labels: Tensor) -> Tensor:
    return quality_focal_loss(x, labels, torch.full(labels.shape, 0.7))


def odd_quality_focal(x: Tensor, labels: Tensor) -> Tensor:
    return quality_focal_loss(x, labels, torch.full(labels.shape, 0.7), beta=1.5)


def entropy(x: Tensor, labels: Tensor) -> Tensor:
    return binary_cross_entropy(x, one_hot(labels, x.shape[-1])).sum(-1)


LOSSES = [focal, odd_focal, plain_focal, quality_focal, odd_quality_focal, entropy]


def test_the_logits_of_other_classes_are_replaced() -> None:
    x = torch.arange(4.0).reshape(1, 2, 2)
    found = only_counted(x, torch.tensor([[True, False]]))
    assert found.tolist() == [[[0.0, UNCOUNTED], [2.0, UNCOUNTED]]]
    assert only_counted(x, None) is x
    layers = only_counted(x.expand(3, 1, 2, 2), torch.tensor([[False, True]]))
    assert layers.tolist() == [[[[UNCOUNTED, 1.0], [UNCOUNTED, 3.0]]]] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_class_that_does_not_count_costs_exactly_nothing(loss, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    """Alone it has a loss of 0, and beside others it changes neither their loss nor any gradient."""
    alone = torch.full((4, 1), UNCOUNTED, dtype=dtype, requires_grad=True)
    cost = loss(alone, torch.ones(4, dtype=torch.int64))
    (slope,) = torch.autograd.grad(cost.sum(), alone)
    assert (cost == 0).all()
    assert (slope == 0).all()
    x = logits(dtype)
    (gradient,) = torch.autograd.grad(loss(only_counted(x, COUNTED), LABELS).sum(), x)
    assert (gradient.masked_select(~COUNTED[:, None].expand_as(gradient)) == 0).all()
    assert (gradient.masked_select(COUNTED[:, None].expand_as(gradient)) != 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_it_is_the_loss_of_a_model_of_the_other_classes(loss) -> None:  # type: ignore[no-untyped-def]
    """Image by image: the logits of the classes that count, with labels numbered among them. Sums of five and of three
    addends may round differently in the last bits of a float32."""
    x = logits()
    found = loss(only_counted(x, COUNTED), LABELS)
    for image, counted in enumerate(COUNTED):
        kept = counted.nonzero()[:, 0].tolist()
        labels = torch.tensor([kept.index(k) if k in kept else len(kept) for k in LABELS[image].tolist()])
        torch.testing.assert_close(found[image], loss(x[image][:, counted], labels), rtol=1e-6, atol=1e-7)


SIZES = torch.tensor([[100.0, 100.0]])
TARGETS = Targets(torch.tensor([[[20.0, 20.0, 60.0, 60.0]]]), torch.tensor([[1]]), torch.tensor([[True]]), (1,))
COUNTS = torch.tensor([[False, True, False]])


def output(dtype: torch.dtype = torch.float32) -> DecoderOutput:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(2, 1, 4, 3, generator=generator, dtype=dtype).requires_grad_()
    return DecoderOutput(values, torch.rand(2, 1, 4, 4, generator=generator).clamp(0.2, 0.8).requires_grad_())


def queries(supervision: Match | Assigned) -> QueryGroup:
    nothing = torch.zeros(1, 4, 4)
    return QueryGroup("match", nothing, nothing, nothing, supervision)


ASSIGNED = Assigned(torch.tensor([[1, 3, 3, 1]]), torch.full((1, 4, 4), 0.4), torch.ones(1, 4))


def losses(config: CriterionConfig, counted: Tensor | None, supervision: Match | Assigned) -> dict[str, Tensor]:
    targets = Targets(*(TARGETS.boxes, TARGETS.labels, TARGETS.valid, TARGETS.counts), counted_classes=counted)
    return SetCriterion(config).group(queries(supervision), output(), targets, SIZES)


@pytest.mark.parametrize("class_loss", ["focal", "quality_focal"])
@pytest.mark.parametrize("supervision", [Match(), ASSIGNED])
def test_only_the_class_loss_of_the_criterion_is_federated(class_loss: str, supervision: Match | Assigned) -> None:
    plain = CriterionConfig.model_validate({"class_loss": class_loss})
    federated = CriterionConfig.model_validate({"class_loss": class_loss, "federated": True})
    full, some = losses(plain, COUNTS, supervision), losses(federated, COUNTS, supervision)
    for name, value in full.items():
        assert (some[name] < value) if name.endswith("cls") else (some[name] == value), name
    # Without the setting, or without a draw, all classes count.
    for same in (losses(federated, None, supervision), losses(plain, None, supervision)):
        assert {name: value.item() for name, value in same.items()} == {k: v.item() for k, v in full.items()}


@pytest.mark.parametrize("is_agnostic", [False, True])
def test_proposals_of_any_object_are_not_federated(is_agnostic: bool) -> None:
    """Their one class, row 0, is none of the image's."""
    criterion = SetCriterion(CriterionConfig(federated=True))
    encoder = EncoderPrediction(output(), is_agnostic, torch.ones(2, 1, 4, dtype=torch.bool))
    targets = Targets(TARGETS.boxes, TARGETS.labels, TARGETS.valid, TARGETS.counts, counted_classes=COUNTS)
    bare = Targets(TARGETS.boxes, TARGETS.labels, TARGETS.valid, TARGETS.counts)
    some, full = (criterion.encoder(encoder, given, SIZES)["encoder.cls"] for given in (targets, bare))
    assert (some == full) if is_agnostic else (some < full)
