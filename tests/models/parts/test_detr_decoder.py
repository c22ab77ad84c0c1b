"""The decoder of DETR."""

from __future__ import annotations

import torch
from torch import nn

from codetr.models.parts.dense_encoder import DenseSize
from codetr.models.parts.detr_decoder import DetrDecoder
from codetr.models.parts.prediction_heads import PredictionHeads
from codetr.structures import Match, Memory, QueryGroup

SIZE = DenseSize(dim=8, num_heads=2, ffn_dim=16, dropout=0.0)
LAYERS = 3

# Three layers of float32 on layer-normalised values of size 1, sums in another order.
SAME = 1e-5


def scattered(module: nn.Module) -> nn.Module:
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
    return QueryGroup(name, torch.randn(2, size, 8), torch.randn(2, size, 8), torch.zeros(2, size, 0), Match())


def test_boxes_are_read_off_the_normed_output_of_each_layer() -> None:
    module, heads = scattered(DetrDecoder(SIZE, num_layers=LAYERS)), PredictionHeads(8, 5, num_layers=3, shared=True)
    scattered(heads)
    queries, tokens = group("match", 4), memory()
    output = module(tokens, [queries], heads)
    content = queries.content
    for index, layer in enumerate(module.layers):
        own = nn.MultiheadAttention(8, 2, batch_first=True)
        own.in_proj_weight, own.in_proj_bias = layer.self_attention.in_proj.weight, layer.self_attention.in_proj.bias
        own.out_proj.weight, own.out_proj.bias = (
            layer.self_attention.out_proj.weight,
            layer.self_attention.out_proj.bias,
        )
        query = content + queries.pos
        content = layer.self_attention.norm(content + own(query, query, content)[0])
        content = layer.cross_attention(content, queries.pos, tokens.tokens, tokens.pos, tokens.padding)
        content = layer.ffn(content)
        hidden = module.norm(content)
        torch.testing.assert_close(output.logits[index], heads.classes[0](hidden), atol=SAME, rtol=0)
        torch.testing.assert_close(output.boxes[index], heads.boxes[0](hidden).sigmoid(), atol=SAME, rtol=0)
    assert output.logits.shape == (LAYERS, 2, 4, 5)


@torch.no_grad()
def test_groups_do_not_see_each_other() -> None:
    module, heads = scattered(DetrDecoder(SIZE, num_layers=LAYERS)), PredictionHeads(8, 5, num_layers=3, shared=True)
    tokens, groups = memory(), [group("match", 4), group("pos.atss", 3)]
    joint = module(tokens, groups, heads).split(groups)
    for one, part in zip(groups, joint, strict=True):
        torch.testing.assert_close(part.logits, module(tokens, [one], heads).logits, atol=SAME, rtol=0)
