"""The decoder of Conditional DETR, and the spatial query that it shares with DAB-DETR."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from codetr.models.parts.conditional_decoder import ConditionalDecoder, SpatialQuery, reference_sine
from codetr.models.parts.dense_encoder import DenseSize
from codetr.models.parts.prediction_heads import PredictionHeads, apply_deltas
from codetr.structures import Match, Memory, QueryGroup

SIZE = DenseSize(dim=8, num_heads=2, ffn_dim=16, dropout=0.0)
LAYERS = 3

# Three layers of float32 on layer-normalised values of size 1, sums in another order.
SAME = 1e-5


def scattered(module: nn.Module) -> nn.Module:
    """With every parameter away from its initial value."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def memory() -> Memory:
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    tokens, pos = torch.randn(2, 6, 8), torch.randn(2, 6, 8)
    return Memory(tokens, pos, padding, ((2, 3),), (32,), torch.tensor([[64.0, 96.0]] * 2))


def group(name: str, size: int) -> QueryGroup:
    reference = 0.2 + 0.6 * torch.rand(2, size, 2)
    return QueryGroup(name, torch.randn(2, size, 8), torch.randn(2, size, 8), reference, Match())


def heads() -> PredictionHeads:
    module = PredictionHeads(8, 5, num_layers=LAYERS, shared=True)
    scattered(module)
    return module


def test_the_sine_of_a_reference_has_y_first_then_x_then_width_and_height() -> None:
    reference = torch.tensor([[[0.25, 0.5, 0.75, 1.0]]])
    # Two features a coordinate: the sine and cosine of the coordinate times 2 pi.
    angle = 2 * math.pi * torch.tensor([0.5, 0.25, 0.75, 1.0])
    expected = torch.stack([angle.sin(), angle.cos()], -1).flatten()
    torch.testing.assert_close(reference_sine(reference, 4)[0, 0], expected)
    torch.testing.assert_close(reference_sine(reference[..., :2], 4)[0, 0], expected[:4])


def test_contents_weigh_the_sine_from_the_second_layer_on() -> None:
    module = SpatialQuery(8, scaled=True, modulated=False)
    content, sine, reference = torch.randn(2, 3, 8), torch.randn(2, 3, 8), torch.rand(2, 3, 2)
    assert torch.equal(module(content, sine, reference, first=True), sine)
    assert module.query_scale is not None
    expected = sine * module.query_scale(content)
    assert torch.equal(module(content, sine, reference, first=False), expected)


def test_a_modulated_query_is_wider_in_the_direction_of_its_box() -> None:
    """Probabilities 1/2 of width and height over sides of 1/4 and 1: x counts twice, y half."""
    module = SpatialQuery(8, scaled=False, modulated=True)
    assert module.ref_anchor_head is not None
    nn.init.zeros_(module.ref_anchor_head.last.weight)
    nn.init.zeros_(module.ref_anchor_head.last.bias)
    sine, reference = torch.randn(1, 1, 8), torch.tensor([[[0.3, 0.6, 0.25, 1.0]]])
    for first in (True, False):
        found = module(torch.randn(1, 1, 8), sine, reference, first=first)
        torch.testing.assert_close(found, torch.cat([sine[..., :4] / 2, sine[..., 4:] * 2], -1))


def test_width_comes_before_height() -> None:
    module = SpatialQuery(8, scaled=False, modulated=True)
    assert module.ref_anchor_head is not None
    nn.init.zeros_(module.ref_anchor_head.last.weight)
    # Probabilities of 3/4 and 1/4 over sides of 1.
    module.ref_anchor_head.last.bias.data = torch.tensor([math.log(3), -math.log(3)])
    found = module(torch.randn(1, 1, 8), torch.ones(1, 1, 8), torch.ones(1, 1, 4), first=True)
    torch.testing.assert_close(found, torch.tensor([[[0.25] * 4 + [0.75] * 4]]))


def test_a_box_without_extent_is_finite() -> None:
    module = SpatialQuery(8, scaled=False, modulated=True)
    found = module(torch.randn(1, 1, 8), torch.randn(1, 1, 8), torch.zeros(1, 1, 4), first=True)
    assert found.isfinite().all()


def test_layers_by_hand() -> None:
    module, predict, queries, tokens = ConditionalDecoder(SIZE, num_layers=LAYERS), heads(), group("match", 4), memory()
    scattered(module)
    output = module(tokens, [queries], predict)
    assert queries.pos is not None and module.spatial_query.query_scale is not None
    sine, content = reference_sine(queries.reference, 8), queries.content
    for index, layer in enumerate(module.layers):
        spatial = sine if index == 0 else sine * module.spatial_query.query_scale(content)
        own = layer.self_attention
        query = own.query_content(content) + own.query_pos(queries.pos)
        key = own.key_content(content) + own.key_pos(queries.pos)
        parts = [x.unflatten(-1, (2, -1)).transpose(1, 2) for x in (query, key, own.value(content))]
        attended = (parts[0] @ parts[1].mT / 4**0.5).softmax(-1) @ parts[2]
        content = own.norm(content + own.out_proj(attended.transpose(1, 2).flatten(2)))
        content = layer.ffn(layer.cross_attention(content, queries.pos, spatial, tokens))
        hidden = module.norm(content)
        torch.testing.assert_close(output.logits[index], predict.classes[0](hidden), atol=SAME, rtol=0)
        expected = apply_deltas(predict.boxes[0](hidden), queries.reference, eps=1e-5)
        torch.testing.assert_close(output.boxes[index], expected, atol=SAME, rtol=0)


def test_points_are_never_refined_and_carry_gradients() -> None:
    queries, predict = group("match", 4), PredictionHeads(8, 5, num_layers=LAYERS, shared=True)
    nn.init.constant_(predict.boxes[0].last.bias, math.log(2))
    queries.reference.requires_grad_()
    output = ConditionalDecoder(SIZE, num_layers=LAYERS)(memory(), [queries], predict)
    expected = (torch.logit(queries.reference) + math.log(2)).sigmoid()
    for boxes in output.boxes:
        torch.testing.assert_close(boxes[..., :2], expected)
        torch.testing.assert_close(boxes[..., 2:], torch.full_like(expected, 2 / 3))
    output.boxes.sum().backward()
    assert queries.reference.grad is not None and (queries.reference.grad > 0).all()


@torch.no_grad()
def test_groups_do_not_see_each_other() -> None:
    module, predict, tokens = scattered(ConditionalDecoder(SIZE, num_layers=LAYERS)), heads(), memory()
    groups = [group("match", 4), group("pos.atss", 3)]
    for one, part in zip(groups, module(tokens, groups, predict).split(groups), strict=True):
        alone = module(tokens, [one], predict)
        torch.testing.assert_close(part.logits, alone.logits, atol=SAME, rtol=0)
        torch.testing.assert_close(part.boxes, alone.boxes, atol=SAME, rtol=0)


@pytest.mark.parametrize("layers", [1, 2])
def test_every_parameter_gets_a_gradient(layers: int) -> None:
    module = ConditionalDecoder(SIZE, num_layers=layers)
    output = module(memory(), [group("match", 4)], heads())
    (output.logits.square().sum() + output.boxes.square().sum()).backward()
    assert [name for name, parameter in module.named_parameters() if parameter.grad is None] == []
