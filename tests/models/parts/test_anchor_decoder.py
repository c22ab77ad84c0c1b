"""The decoder of Anchor DETR."""

from __future__ import annotations

import pytest
import torch
from anchor_plain import HEADS, centres, dense, double, ffn, in_plane, linear, on_axis, row_column
from torch import Tensor

from codetr.models.parts.anchor_decoder import AnchorDecoder
from codetr.models.parts.anchor_position import AnchorPosition
from codetr.models.parts.dense_encoder import DenseSize
from codetr.models.parts.prediction_heads import PredictionHeads
from codetr.structures import DecoderOutput, Match, Memory, QueryGroup

DIM, CLASSES, HEIGHT, WIDTH = 8, 3, 3, 5
SIZE = DenseSize(dim=DIM, num_heads=HEADS, ffn_dim=16, dropout=0.0)
REAL = [(HEIGHT, WIDTH), (2, 4)]
KINDS = pytest.mark.parametrize("decoupled", [True, False], ids=["rcda", "dense"])

# Two layers of float32 on layer-normalised values of size 1.
SAME = 1e-5

Parts = tuple[AnchorDecoder, AnchorPosition, PredictionHeads]


def parts(decoupled: bool, num_layers: int = 1) -> Parts:
    """With every parameter away from its initial value."""
    decoder = AnchorDecoder(SIZE, num_layers=num_layers, decoupled=decoupled)
    position = AnchorPosition(DIM, decoupled=decoupled)
    heads = PredictionHeads(DIM, CLASSES, num_layers=num_layers, shared=True, size_bias=-2.0)
    with torch.no_grad():
        for module in (decoder, position, heads):
            for parameter in module.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return decoder, position, heads


def memory() -> Memory:
    padding = torch.ones(2, HEIGHT, WIDTH, dtype=torch.bool)
    for mask, (rows, columns) in zip(padding, REAL, strict=True):
        mask[:rows, :columns] = False
    tokens, pos = torch.randn(2, 2, HEIGHT * WIDTH, DIM)
    return Memory(tokens, pos, padding.flatten(1), ((HEIGHT, WIDTH),), (8,), 8 * torch.tensor(REAL).float())


def group(name: str, size: int, *, pos: bool = False, valid: Tensor | None = None) -> QueryGroup:
    content = torch.randn(2, size, DIM)
    position = torch.randn(2, size, DIM) if pos else None
    return QueryGroup(name, content, position, torch.rand(2, size, 2), Match(), valid=valid)


def run(modules: Parts, memory: Memory, groups: list[QueryGroup]) -> DecoderOutput:
    decoder, position, heads = modules
    return decoder(memory, groups, heads, position)


def plain_layer(modules: Parts, memory: Memory, queries: QueryGroup, index: int) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and boxes (N, 4) of one image after the only layer."""
    state, shared, top = (double(module.state_dict()) for module in modules)
    places = [tuple(place) for place in queries.reference[index].tolist()]
    pos = in_plane(shared, places, DIM)
    content = queries.content[index].double()
    all_real = torch.ones(len(content), dtype=torch.bool)
    content = dense(state, "layers.0.self_attention", content, pos, content, pos, all_real)
    cells, name = memory.tokens[index].double(), "layers.0.cross_attention"
    if modules[0].decoupled:
        at = tuple(on_axis(shared, list(values), DIM) for values in zip(*places, strict=True))
        rows, columns = REAL[index]
        axes = on_axis(shared, centres(columns, WIDTH), DIM), on_axis(shared, centres(rows, HEIGHT), DIM)
        content = row_column(state, name, content, at, cells.view(HEIGHT, WIDTH, DIM), axes, REAL[index])
    else:
        content = dense(state, name, content, pos, cells, memory.pos[index].double(), ~memory.padding[index])
    content = ffn(state, "layers.0.ffn", content)
    hidden = linear(top, "boxes.0.layers.0", content).clamp(min=0)
    deltas = linear(top, "boxes.0.layers.2", linear(top, "boxes.0.layers.1", hidden).clamp(min=0))
    point = queries.reference[index].double().clamp(1e-5, 1 - 1e-5)
    deltas[:, :2] += (point / (1 - point)).log()
    return linear(top, "classes.0", content), 1 / (1 + (-deltas).exp())


@KINDS
@torch.no_grad()
def test_one_layer_equals_plain_float64(decoupled: bool) -> None:
    modules, seen, queries = parts(decoupled), memory(), group("match", 6)
    found = run(modules, seen, [queries])
    assert found.logits.shape == (1, 2, 6, CLASSES) and found.boxes.shape == (1, 2, 6, 4)
    for index in range(2):
        logits, boxes = plain_layer(modules, seen, queries, index)
        torch.testing.assert_close(found.logits[0, index].double(), logits, atol=SAME, rtol=0)
        torch.testing.assert_close(found.boxes[0, index].double(), boxes, atol=SAME, rtol=0)


@KINDS
@torch.no_grad()
def test_points_stay_where_they_are(decoupled: bool) -> None:
    """A second layer that does nothing predicts what the first one did, about the same points."""
    modules, seen, queries = parts(decoupled, num_layers=2), memory(), group("match", 4)
    second = modules[0].layers[1]
    for linear_layer in (second.self_attention.out_proj, second.cross_attention.out_proj, second.ffn.linear2):
        linear_layer.weight.zero_()
        linear_layer.bias.zero_()
    for layer in modules[0].layers:
        for attention in (layer.self_attention, layer.cross_attention, layer.ffn):
            attention.norm.reset_parameters()
    found = run(modules, seen, [queries])
    # Layer-normalised once more, where the eps of a norm counts.
    torch.testing.assert_close(found.boxes[0], found.boxes[1], atol=1e-4, rtol=0)


@KINDS
@torch.no_grad()
def test_a_group_without_a_position_gets_that_of_its_points(decoupled: bool) -> None:
    modules, seen, queries = parts(decoupled, num_layers=2), memory(), group("match", 4)
    pos = modules[1].of_places(queries.reference)
    given = QueryGroup("match", queries.content, pos, queries.reference, Match())
    assert torch.equal(run(modules, seen, [queries]).logits, run(modules, seen, [given]).logits)
    other = QueryGroup("match", queries.content, pos + 1, queries.reference, Match())
    assert not torch.allclose(run(modules, seen, [other]).logits, run(modules, seen, [given]).logits, atol=1e-3)


@KINDS
@torch.no_grad()
def test_groups_do_not_see_each_other(decoupled: bool) -> None:
    modules, seen = parts(decoupled, num_layers=2), memory()
    valid = torch.tensor([[True, True, False], [True, False, False]])
    groups = [group("match", 5), group("a", 3, valid=valid), group("b", 4, pos=True)]
    for queries, part in zip(groups, run(modules, seen, groups).split(groups), strict=True):
        alone = run(modules, seen, [queries])
        keep = slice(None) if queries.valid is None else queries.valid
        torch.testing.assert_close(part.logits[:, keep], alone.logits[:, keep], atol=SAME, rtol=0)
        torch.testing.assert_close(part.boxes[:, keep], alone.boxes[:, keep], atol=SAME, rtol=0)
