"""The encoder of the single-scale family."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codetr.errors import UserError
from codetr.models.parts.dense_encoder import DenseEncoder, DenseSize, check_width
from codetr.ops.position import image_position
from codetr.structures import ImageBatch

SIZE = DenseSize(dim=8, num_heads=2, ffn_dim=16, dropout=0.0)

# Two layers of float32 on layer-normalised values of size 1, sums in another order.
SAME = 1e-5


def images(height: int = 96, width: int = 128, second: tuple[int, int] = (60, 70)) -> ImageBatch:
    padding = torch.zeros(2, height, width, dtype=torch.bool)
    padding[1, second[0] :] = True
    padding[1, :, second[1] :] = True
    sizes = torch.tensor([(height, width), second], dtype=torch.float32)
    return ImageBatch(torch.zeros(2, 3, height, width), padding, sizes)


def encoder(size: DenseSize = SIZE, *, num_layers: int = 2, scaled: bool = False) -> DenseEncoder:
    """With every parameter away from its initial value."""
    module = DenseEncoder(size, num_layers=num_layers, temperature=20.0, scaled_position=scaled)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def feature() -> Tensor:
    return torch.randn(2, 8, 3, 4)


def test_tokens_lie_row_by_row() -> None:
    maps, batch = feature(), images()
    memory = encoder(num_layers=0)([maps], batch, (32,))
    assert memory.shapes == ((3, 4),) and memory.strides == (32,)
    assert torch.equal(memory.tokens[1, 1 * 4 + 2], maps[1, :, 1, 2])
    # 60 x 70 of 96 x 128 pixels: two rows (the second begins at 32) and three columns of 32.
    assert memory.padding[1].view(3, 4).tolist() == [[False] * 3 + [True]] * 2 + [[True] * 4]
    assert not memory.padding[0].any() and torch.equal(memory.sizes, batch.sizes)


def test_positions_have_the_given_temperature_and_no_offset() -> None:
    memory = encoder(num_layers=0)([feature()], images(), (32,))
    expected = image_position(memory.padding.view(2, 3, 4), 4, temperature=20.0, offset=0.0)
    assert torch.equal(memory.pos, expected.flatten(1, 2))
    assert DenseEncoder(SIZE, num_layers=1).temperature == 10000.0


@pytest.mark.parametrize("scaled", [False, True])
def test_each_layer_adds_the_positions_again(scaled: bool) -> None:
    module, maps, batch = encoder(scaled=scaled), feature(), images()
    memory = module([maps], batch, (32,))
    tokens = maps.flatten(2).transpose(1, 2)
    for layer in module.layers:
        pos = memory.pos * module.query_scale(tokens) if module.query_scale is not None else memory.pos
        tokens = layer.ffn(layer.self_attention(tokens, pos, tokens, pos, memory.padding))
    assert (module.query_scale is not None) is scaled
    torch.testing.assert_close(memory.tokens, tokens, atol=SAME, rtol=0)


def test_what_lies_in_the_padding_changes_nothing_outside() -> None:
    module, maps, batch = encoder(), feature(), images()
    before = module([maps], batch, (32,))
    inside = before.padding.view(2, 1, 3, 4)
    after = module([torch.where(inside, 100.0, maps)], batch, (32,))
    kept = ~before.padding
    torch.testing.assert_close(before.tokens[kept], after.tokens[kept], atol=SAME, rtol=0)


def test_learned_slopes_are_one_number_a_layer() -> None:
    size = DenseSize(8, 2, 16, 0.0, learned_slope=True)
    extra = sum(p.numel() for p in encoder(size).parameters()) - sum(p.numel() for p in encoder().parameters())
    assert extra == 2


def test_a_width_that_cannot_be_shared_out_is_an_error() -> None:
    check_width(8, 2)
    with pytest.raises(UserError, match=r"neck\.dim is 8; it must be a multiple of base\.num_heads \(3\)"):
        check_width(8, 3)
    with pytest.raises(UserError, match=r"neck\.dim is 6; it must be a multiple of 4"):
        check_width(6, 2)
