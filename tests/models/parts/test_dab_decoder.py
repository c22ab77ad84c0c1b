"""The decoder of DAB-DETR."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from codetr.models.layers.attention import Visibility
from codetr.models.parts.conditional_decoder import reference_sine
from codetr.models.parts.dab_decoder import DabDecoder
from codetr.models.parts.dense_encoder import DenseSize
from codetr.models.parts.prediction_heads import PredictionHeads, apply_deltas
from codetr.structures import Match, Memory, QueryGroup

SIZE = DenseSize(dim=8, num_heads=2, ffn_dim=16, dropout=0.0, learned_slope=True)
LAYERS, EPS = 3, 1e-3

# Three layers of float32 on layer-normalised values of size 1, sums in another order.
SAME = 1e-5


def scattered(module: nn.Module) -> None:
    """Every parameter away from its initial value."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))


def decoder(num_layers: int = LAYERS) -> DabDecoder:
    module = DabDecoder(SIZE, num_layers=num_layers)
    scattered(module)
    return module


def heads() -> PredictionHeads:
    module = PredictionHeads(8, 5, num_layers=LAYERS, shared=True)
    scattered(module)
    return module


def memory() -> Memory:
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    tokens, pos = torch.randn(2, 6, 8), torch.randn(2, 6, 8)
    return Memory(tokens, pos, padding, ((2, 3),), (32,), torch.tensor([[64.0, 96.0]] * 2))


def group(name: str, size: int) -> QueryGroup:
    return QueryGroup(name, torch.randn(2, size, 8), None, 0.2 + 0.6 * torch.rand(2, size, 4), Match())


def test_each_layer_adds_its_deltas() -> None:
    queries, predict = group("match", 4), PredictionHeads(8, 5, num_layers=LAYERS, shared=True)
    nn.init.constant_(predict.boxes[0].last.bias, math.log(2))
    output = decoder()(memory(), [queries], predict)
    expected = [(torch.logit(queries.reference) + step * math.log(2)).sigmoid() for step in (1, 2, 3)]
    torch.testing.assert_close(output.boxes, torch.stack(expected))


def test_the_next_box_comes_from_the_output_without_the_norm() -> None:
    module, predict, queries, tokens = decoder(), heads(), group("match", 4), memory()
    output = module(tokens, [queries], predict)
    visibility, reference, content = Visibility.of([queries]), queries.reference, queries.content
    for index, layer in enumerate(module.layers):
        sine = reference_sine(reference, 8)
        spatial = module.spatial_query(content, sine[..., :8], reference, first=index == 0)
        content = layer(content, module.ref_point_head(sine), spatial, visibility, tokens)
        hidden = module.norm(content)
        torch.testing.assert_close(output.logits[index], predict.classes[0](hidden), atol=SAME, rtol=0)
        expected = apply_deltas(predict.boxes[0](hidden), reference, eps=EPS)
        torch.testing.assert_close(output.boxes[index], expected, atol=SAME, rtol=0)
        reference = apply_deltas(predict.boxes[0](content), reference, eps=EPS)


def test_predictions_reach_the_layer_before_through_their_reference_alone() -> None:
    """Look forward twice: with contents cut off, the second box still moves the first layer's output."""
    module, predict, queries = decoder(2), heads(), group("match", 4)
    firsts: list[torch.Tensor] = []

    module.layers[0].register_forward_hook(lambda layer, args, output: firsts.append(output))
    module.layers[1].register_forward_pre_hook(lambda layer, args: (args[0].detach(), *args[1:]))
    module.spatial_query.register_forward_pre_hook(lambda part, args: (args[0].detach(), *args[1:]))
    output = module(memory(), [queries], predict)
    (gradient,) = torch.autograd.grad(output.boxes[1].sum(), firsts[0], retain_graph=True)
    assert gradient.abs().sum() > 0
    # Boxes that a layer reads have no graph, so its own output cannot reach the layer before.
    (gradient,) = torch.autograd.grad(output.logits[1].sum(), firsts[0])
    assert not gradient.any()


@torch.no_grad()
def test_groups_do_not_see_each_other() -> None:
    module, predict, tokens = decoder(), heads(), memory()
    groups = [group("match", 4), group("pos.atss", 3)]
    for one, part in zip(groups, module(tokens, groups, predict).split(groups), strict=True):
        alone = module(tokens, [one], predict)
        torch.testing.assert_close(part.logits, alone.logits, atol=SAME, rtol=0)
        torch.testing.assert_close(part.boxes, alone.boxes, atol=SAME, rtol=0)


@pytest.mark.parametrize("layers", [1, 2])
def test_every_parameter_gets_a_gradient(layers: int) -> None:
    module, predict = decoder(layers), heads()
    output = module(memory(), [group("match", 4)], predict)
    (output.logits.square().sum() + output.boxes.square().sum()).backward()
    assert [name for name, parameter in module.named_parameters() if parameter.grad is None] == []
