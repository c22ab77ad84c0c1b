"""Class and box heads of a decoder."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from codetr.models.parts.prediction_heads import PredictionHeads, apply_deltas

DIM = 8
EPS = 1e-5


def heads(*, shared: bool, size_bias: float = 0.0) -> PredictionHeads:
    return PredictionHeads(DIM, 3, num_layers=3, shared=shared, size_bias=size_bias)


def test_deltas_around_a_point() -> None:
    # x: logit 0 plus log 3; y: logit -log 3 plus log 3; width and height are the deltas alone.
    deltas = torch.tensor([[[math.log(3), math.log(3), 0.0, -math.log(3)]]])
    found = apply_deltas(deltas, torch.tensor([[[0.5, 0.25]]]), eps=EPS)
    torch.testing.assert_close(found, torch.tensor([[[0.75, 0.5, 0.5, 0.25]]]))


def test_deltas_around_a_box() -> None:
    deltas = torch.tensor([[[math.log(3), 0.0, -math.log(3), math.log(3)]]])
    found = apply_deltas(deltas, torch.tensor([[[0.5, 0.25, 0.75, 0.25]]]), eps=EPS)
    torch.testing.assert_close(found, torch.tensor([[[0.75, 0.25, 0.5, 0.5]]]))


def test_a_reference_outside_counts_as_the_edge() -> None:
    found = apply_deltas(torch.zeros(1, 1, 4), torch.tensor([[[-0.5, 1.5, 1.0, 0.0]]]), eps=0.01)
    torch.testing.assert_close(found, torch.tensor([[[0.01, 0.99, 0.99, 0.01]]]))


def test_half_precision_deltas_give_boxes_in_single_precision() -> None:
    reference = torch.rand(1, 5, 4)
    found = apply_deltas(torch.zeros(1, 5, 4, dtype=torch.bfloat16), reference, eps=EPS)
    assert found.dtype == torch.float32
    # Logit and sigmoid in float32; half precision would be off by 1e-3.
    torch.testing.assert_close(found, reference, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shared", [True, False])
def test_initial_predictions(shared: bool) -> None:
    module, hidden = heads(shared=shared), torch.randn(2, 5, DIM)
    for layer in range(3):
        _, deltas = module(hidden, layer)
        assert deltas.shape == (2, 5, 4) and (deltas == 0).all()
        logits, _ = module(torch.zeros(2, 5, DIM), layer)
        torch.testing.assert_close(logits.sigmoid(), torch.full((2, 5, 3), 0.01))


@pytest.mark.parametrize(("shared", "layers_with_it"), [(True, [0, 1, 2]), (False, [0])])
def test_size_bias_belongs_to_the_first_pair(shared: bool, layers_with_it: list[int]) -> None:
    module, hidden = heads(shared=shared, size_bias=-2.0), torch.randn(1, 1, DIM)
    for layer in range(3):
        _, deltas = module(hidden, layer)
        assert deltas.flatten().tolist() == ([0, 0, -2, -2] if layer in layers_with_it else [0, 0, 0, 0])


def test_pairs_start_equal_and_are_not_the_same() -> None:
    module, hidden = heads(shared=False), torch.randn(2, 5, DIM)
    assert len(module.classes) == len(module.boxes) == 3
    first = module(hidden, 0)[0]
    for layer in (1, 2):
        assert torch.equal(module(hidden, layer)[0], first)
        assert torch.equal(module.boxes[layer].layers[0].weight, module.boxes[0].layers[0].weight)
    nn.init.ones_(module.classes[1].weight)
    nn.init.ones_(module.boxes[1].last.bias)
    assert torch.equal(module(hidden, 2)[0], first) and not torch.equal(module(hidden, 1)[0], first)
    assert [module(hidden, layer)[1].sum().item() for layer in range(3)] == [0, 40, 0]


def test_a_shared_pair_serves_every_layer() -> None:
    module, hidden = heads(shared=True), torch.randn(2, 5, DIM)
    assert len(module.classes) == len(module.boxes) == 1
    nn.init.ones_(module.boxes[0].last.bias)
    for layer in range(3):
        logits, deltas = module(hidden, layer)
        assert torch.equal(logits, module.classes[0](hidden)) and (deltas == 1).all()


def test_plain_heads_keep_the_initial_values_of_their_layers() -> None:
    module = PredictionHeads(DIM, 3, num_layers=3, shared=True, plain=True)
    assert module.boxes[0].last.weight.abs().min() > 0
    # Uniform up to the square root of 1 / DIM, where the prior would be -4.6.
    assert module.classes[0].bias.abs().max() <= DIM**-0.5


@pytest.mark.parametrize("shared", [True, False])
def test_deltas_alone(shared: bool) -> None:
    module, hidden = PredictionHeads(DIM, 3, num_layers=3, shared=shared, plain=True), torch.randn(2, 5, DIM)
    for mlp in module.boxes:
        nn.init.normal_(mlp.last.bias)
    for layer in range(3):
        assert torch.equal(module.deltas(hidden, layer), module(hidden, layer)[1])


def test_without_a_reference_the_deltas_are_the_box() -> None:
    deltas = torch.tensor([[[0.0, math.log(3), -math.log(3), 0.0]]])
    found = apply_deltas(deltas, torch.zeros(1, 1, 0), eps=EPS)
    torch.testing.assert_close(found, torch.tensor([[[0.5, 0.75, 0.25, 0.5]]]))
