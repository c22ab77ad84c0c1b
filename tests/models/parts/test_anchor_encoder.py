"""The encoder of Anchor DETR."""

from __future__ import annotations

import math

import pytest
import torch
from anchor_plain import HEADS, centres, dense, double, ffn, in_plane, on_axis, row_column
from torch import Tensor

from codetr.models.parts.anchor_encoder import AnchorEncoder
from codetr.models.parts.anchor_position import AnchorPosition
from codetr.models.parts.dense_encoder import DenseSize
from codetr.structures import ImageBatch

DIM = 8
SIZE = DenseSize(dim=DIM, num_heads=HEADS, ffn_dim=16, dropout=0.0)
SHAPES = [(3, 5), (5, 3)]

# One layer of float32 on layer-normalised values of size 1.
SAME = 1e-5


def images(height: int, width: int, *sizes: tuple[int, int]) -> ImageBatch:
    """Images of so many cells of 8 x 8 pixels in a batch of height x width cells."""
    padding = torch.ones(len(sizes), 8 * height, 8 * width, dtype=torch.bool)
    for mask, (rows, columns) in zip(padding, sizes, strict=True):
        mask[: 8 * rows, : 8 * columns] = False
    pixels = torch.zeros(len(sizes), 3, 8 * height, 8 * width)
    return ImageBatch(pixels, padding, 8 * torch.tensor(sizes, dtype=torch.float32))


def parts(decoupled: bool, num_layers: int = 1) -> tuple[AnchorEncoder, AnchorPosition]:
    """With every parameter away from its initial value."""
    encoder = AnchorEncoder(SIZE, num_layers=num_layers, decoupled=decoupled)
    position = AnchorPosition(DIM, decoupled=decoupled)
    with torch.no_grad():
        for parameter in [*encoder.parameters(), *position.parameters()]:
            parameter.add_(0.2 * torch.randn_like(parameter))
    return encoder, position


def plain_layer(
    encoder: AnchorEncoder, position: AnchorPosition, cells: Tensor, real: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Tokens (S, C) of one image after the only layer, and their positions. cells: (H, W, C) float64."""
    state, shared = double(encoder.state_dict()), double(position.state_dict())
    height, width, dim = cells.shape
    y, x = centres(real[0], height), centres(real[1], width)
    tokens = cells.flatten(0, 1)
    name = "layers.0.self_attention"
    if encoder.decoupled:
        axes = on_axis(shared, x, dim), on_axis(shared, y, dim)
        at = torch.stack([axes[0][i % width] for i in range(len(tokens))]), axes[1].repeat_interleave(width, dim=0)
        attended, pos = row_column(state, name, tokens, at, cells, axes, real), at[0] + at[1]
    else:
        pos = in_plane(shared, [(a, b) for b in y for a in x], dim)
        seen = torch.tensor([r < real[0] and c < real[1] for r in range(height) for c in range(width)])
        attended = dense(state, name, tokens, pos, tokens, pos, seen)
    return ffn(state, "layers.0.ffn", attended), pos


@pytest.mark.parametrize("decoupled", [True, False], ids=["rcda", "dense"])
@pytest.mark.parametrize(("height", "width"), SHAPES)
@torch.no_grad()
def test_one_layer_equals_plain_float64(height: int, width: int, decoupled: bool) -> None:
    encoder, position = parts(decoupled)
    reals = [(height, width), (height - 1, width - 2)]
    features = torch.randn(2, DIM, height, width)
    memory = encoder([features], images(height, width, *reals), (8,), position)
    for index, real in enumerate(reals):
        tokens, pos = plain_layer(encoder, position, features[index].permute(1, 2, 0).double(), real)
        torch.testing.assert_close(memory.tokens[index].double(), tokens, atol=SAME, rtol=0)
        torch.testing.assert_close(memory.pos[index].double(), pos, atol=SAME, rtol=0)


@pytest.mark.parametrize("decoupled", [True, False], ids=["rcda", "dense"])
@torch.no_grad()
def test_the_memory_of_a_batch(decoupled: bool) -> None:
    encoder, position = parts(decoupled, num_layers=0)
    features, batch = torch.randn(2, DIM, 2, 3), images(2, 3, (2, 3), (1, 2))
    memory = encoder([features], batch, (8,), position)
    assert memory.shapes == ((2, 3),) and memory.strides == (8,)
    assert torch.equal(memory.tokens[1, 1 * 3 + 2], features[1, :, 1, 2])
    assert memory.padding[1].tolist() == [False, False, True, True, True, True]
    assert memory.pos.shape == memory.tokens.shape == (2, 6, DIM)
    assert torch.equal(memory.sizes, batch.sizes)


@pytest.mark.parametrize("decoupled", [True, False], ids=["rcda", "dense"])
def test_initial_values_are_those_of_pytorch(decoupled: bool) -> None:
    """But for the joint input projection: Xavier-uniform."""
    size = DenseSize(dim=64, num_heads=8, ffn_dim=96, dropout=0.0)
    layer = AnchorEncoder(size, num_layers=1, decoupled=decoupled).layers[0]
    inputs = 5 if decoupled else 3
    bounds = {
        "self_attention.in_proj": math.sqrt(6 / ((inputs + 1) * 64)),
        "self_attention.out_proj": 1 / math.sqrt(64),
        "ffn.linear1": 1 / math.sqrt(64),
        "ffn.linear2": 1 / math.sqrt(96),
    }
    for name, bound in bounds.items():
        linear = layer.get_submodule(name)
        assert 0.95 * bound < linear.weight.abs().max().item() <= bound, name
        assert (linear.bias.abs().max() > 0) == name.startswith("ffn"), name
