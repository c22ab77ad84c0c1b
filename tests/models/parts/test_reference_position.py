"""Positions of queries from their references."""

from __future__ import annotations

import math

import torch

from codetr.models.parts.reference_position import ReferencePosition

DIM = 4


def sine_by_hand(box: list[float]) -> list[float]:
    """Of four channels two a coordinate, sine and cosine of the first frequency; in the order y, x, w, h."""
    cx, cy, w, h = box
    return [f(2 * math.pi * value) for value in (cy, cx, w, h) for f in (math.sin, math.cos)]


def test_position_is_a_perceptron_of_the_box_on_the_finest_level() -> None:
    torch.manual_seed(0)
    module = ReferencePosition(DIM, scaled=False)
    boxes = [[0.1, 0.2, 0.3, 0.4], [0.6, 0.7, 0.2, 0.1], [0.5, 0.4, 0.9, 0.8]]
    # Two levels, of which the second is not looked at; two groups.
    levels = torch.tensor([boxes]).unsqueeze(2).repeat(1, 1, 2, 1)
    levels[:, :, 1] = 0.77
    pos = module(torch.randn(1, 3, DIM), [levels[:, :1], levels[:, 1:]], layer=1)
    expected = module.ref_point_head(torch.tensor([[sine_by_hand(box) for box in boxes]]))
    torch.testing.assert_close(pos, expected, atol=1e-6, rtol=0)
    assert [tuple(linear.weight.shape) for linear in module.ref_point_head.layers] == [(4, 8), (4, 4)]


def test_the_scale_counts_from_the_second_layer_on() -> None:
    torch.manual_seed(0)
    module = ReferencePosition(DIM, scaled=True)
    content, levels = torch.randn(1, 2, DIM), [torch.rand(1, 2, 1, 4)]
    assert module.query_scale is not None
    first, second = (module(content, levels, layer=layer) for layer in (0, 1))
    torch.testing.assert_close(second, first * module.query_scale(content))
    assert not torch.equal(first, second)
