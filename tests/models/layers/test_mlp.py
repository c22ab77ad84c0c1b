"""Multilayer perceptrons, by hand."""

from __future__ import annotations

import torch
from torch import nn

from codetr.models.layers.mlp import MLP, FeedForward


def set_to(linear: nn.Linear, weight: list[list[float]], bias: list[float]) -> None:
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(weight))
        linear.bias.copy_(torch.tensor(bias))


def test_relu_lies_between_the_layers_and_not_after_the_last() -> None:
    mlp = MLP(2, 2, 1, num_layers=2)
    set_to(mlp.layers[0], [[1, 0], [0, -1]], [0, 1])
    set_to(mlp.layers[1], [[1, -2]], [0.5])
    # (3, -1) to (3, 2) to 3 - 4 + 0.5; (-3, 4) to (0, 0) to 0.5.
    assert mlp(torch.tensor([[3.0, -1.0], [-3.0, 4.0]])).tolist() == [[-0.5], [0.5]]


def test_widths() -> None:
    mlp = MLP(3, 7, 4, num_layers=3)
    assert [(x.in_features, x.out_features) for x in mlp.layers] == [(3, 7), (7, 7), (7, 4)]
    assert mlp.last is mlp.layers[2]
    single = MLP(3, 7, 4, num_layers=1)
    assert (single.last.in_features, single.last.out_features) == (3, 4)


def test_feed_forward_adds_its_input_and_normalises_last() -> None:
    ffn = FeedForward(2, 2, dropout=0.0)
    set_to(ffn.linear1, [[1, 0], [0, 1]], [0, 0])
    set_to(ffn.linear2, [[0, 1], [2, 0]], [0, 1])
    nn.init.constant_(ffn.norm.weight, 3.0)
    nn.init.constant_(ffn.norm.bias, 1.0)
    # (1, -2): relu (1, 0), second layer (0, 3), sum (1, 1): no spread, the norm gives its bias.
    # (1, 0): relu (1, 0), second layer (0, 3), sum (1, 3): normalised to (-1, 1), times 3 plus 1.
    found = ffn(torch.tensor([[1.0, -2.0], [1.0, 0.0]]))
    # The norm adds 1e-5 to a variance of 1.
    torch.testing.assert_close(found, torch.tensor([[1.0, 1.0], [-2.0, 4.0]]), atol=5e-5, rtol=0)


def test_dropout_is_for_training() -> None:
    ffn, x = FeedForward(8, 16, dropout=0.5), torch.randn(4, 8)
    assert not torch.equal(ffn(x), ffn(x))
    ffn.eval()
    assert torch.equal(ffn(x), ffn(x))


def test_a_learned_slope_is_one_number_that_starts_at_a_quarter() -> None:
    ffn = FeedForward(2, 3, dropout=0.0, learned_slope=True)
    set_to(ffn.linear1, [[1, 0], [0, 1], [0, 0]], [0, 0, 0])
    set_to(ffn.linear2, [[0, 4, 0], [0, 0, 0]], [0, 1])
    plain = FeedForward(2, 3, dropout=0.0)
    assert sum(p.numel() for p in ffn.parameters()) == sum(p.numel() for p in plain.parameters()) + 1
    # (1, -2): slopes give (1, -1/2, 0), second layer (-2, 1), sum (-1, -1): no spread. ReLU would give (1, -1).
    assert ffn(torch.tensor([[1.0, -2.0]])).tolist() == [[0.0, 0.0]]


def test_xavier_weights() -> None:
    mlp = MLP(8, 16, 2, num_layers=2)
    nn.init.zeros_(mlp.layers[0].weight)
    mlp.init_xavier()
    for layer in mlp.layers:
        bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
        # Uniform up to the bound; of 32 or more draws the largest is above half of it.
        assert bound / 2 < layer.weight.abs().max() <= bound
