"""From a head's positives to decoder queries."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from codetr.models.parts.positive_queries import PositiveQueries
from codetr.ops.position import sine_embedding
from codetr.structures import Positives

DIM = 8
SIZES = torch.tensor([[40.0, 80.0], [20.0, 40.0]])  # height, width


def positives(valid: tuple[tuple[bool, ...], ...] = ((True, True), (True, False))) -> Positives:
    """Two slots an image; the second box of the first image reaches over the left and the upper edge."""
    boxes = torch.tensor([[[20.0, 10, 60, 30], [-20, -10, 20, 10]], [[0, 0, 40, 20], [7, 7, 7, 7]]])
    targets = torch.tensor([[[16.0, 10, 64, 30], [0, 0, 40, 20]], [[10, 5, 30, 15], [0, 0, 0, 0]]])
    features = torch.randn(2, 2, DIM, requires_grad=True)
    labels = torch.tensor([[3, 1], [2, 0]])
    return Positives(boxes.requires_grad_(), features, labels, targets, torch.tensor(valid))


def queries(*, use_features: bool, query_width: int = 2) -> PositiveQueries:
    """With norms that show."""
    module = PositiveQueries(DIM, query_width=query_width, use_features=use_features)
    for norm in (module.position_norm, module.feature_norm):
        if norm is not None:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    return module


def test_boxes_in_units_of_each_image() -> None:
    _, boxes, _ = queries(use_features=True)(positives(), SIZES)
    # The box over the edge keeps its centre at 0; the slot that is not valid lies in the middle.
    expected = [[[0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5]], [[0.5, 0.5, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5]]]
    assert boxes.tolist() == expected
    assert not boxes.requires_grad


def test_a_box_with_its_centre_outside_is_embedded_as_if_at_the_edge() -> None:
    module, given = queries(use_features=True), positives()

    def with_second_box(*box: float) -> tuple[torch.Tensor, torch.Tensor]:
        boxes = given.boxes.detach().clone()
        boxes[0, 1] = torch.tensor(box)
        embedding, normalised, _ = module(replace(given, boxes=boxes), SIZES)
        return embedding, normalised[0, 1]

    outside, box = with_second_box(-40, 0, 0, 20)
    assert box.tolist() == [-0.25, 0.25, 0.5, 0.5]
    at_edge, box = with_second_box(-20, 0, 20, 20)
    assert box.tolist() == [0.0, 0.25, 0.5, 0.5]
    inside, _ = with_second_box(0, 0, 40, 20)
    assert torch.equal(outside, at_edge) and not torch.allclose(outside, inside, atol=1e-2)


def test_supervision_is_what_the_head_assigned() -> None:
    _, _, supervision = queries(use_features=True)(positives(), SIZES)
    assert supervision.labels.tolist() == [[3, 1], [2, 0]]
    assert supervision.weights.tolist() == [[1, 1], [1, 0]]
    expected = [[[0.5, 0.5, 0.6, 0.5], [0.25, 0.25, 0.5, 0.5]], [[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]]]
    torch.testing.assert_close(supervision.boxes, torch.tensor(expected))


@pytest.mark.parametrize("query_width", [1, 2])
def test_embedding_of_box_and_feature(query_width: int) -> None:
    module, given = queries(use_features=True, query_width=query_width), positives()
    embedding, boxes, _ = module(given, SIZES)
    assert embedding.shape == (2, 2, query_width * DIM)
    inside = boxes.clamp(1e-5, 1 - 1e-5)
    position = module.position_norm(module.position(sine_embedding(inside, DIM // 2)))
    assert module.feature is not None and module.feature_norm is not None
    feature = module.feature_norm(module.feature(given.features))
    torch.testing.assert_close(embedding[..., :DIM], position[..., :DIM] + feature)
    torch.testing.assert_close(embedding[..., DIM:], position[..., DIM:])  # the position half knows no feature


def test_without_features_the_box_alone_makes_the_query() -> None:
    module, given = queries(use_features=False), positives()
    assert not any("feature" in name for name, _ in module.named_parameters())
    embedding, boxes, _ = module(given, SIZES)
    position = module.position_norm(module.position(sine_embedding(boxes.clamp(1e-5, 1 - 1e-5), DIM // 2)))
    torch.testing.assert_close(embedding, position)
    embedding.square().sum().backward()
    assert given.features.grad is None


def test_gradients_reach_features_and_not_boxes() -> None:
    module, given = queries(use_features=True), positives()
    embedding, _, _ = module(given, SIZES)
    embedding.square().sum().backward()
    assert given.features.grad is not None and (given.features.grad.abs().sum(-1) > 0).all()
    assert given.boxes.grad is None
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_slots_that_are_not_valid_are_finite_whatever_they_hold() -> None:
    given = positives(((False, False), (False, False)))
    with torch.no_grad():
        given.boxes.fill_(float("nan"))
    embedding, boxes, supervision = queries(use_features=True)(given, SIZES)
    assert embedding.isfinite().all()
    assert (boxes == 0.5).all() and (supervision.boxes == 0.5).all() and (supervision.weights == 0).all()
