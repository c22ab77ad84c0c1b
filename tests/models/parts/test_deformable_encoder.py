"""The encoder of the deformable family."""

from __future__ import annotations

import torch
from torch import Tensor

from codetr.models.layers.deformable import LayerSize
from codetr.models.parts.deformable_encoder import DeformableEncoder
from codetr.ops.position import image_position
from codetr.structures import ImageBatch

SIZE = LayerSize(dim=8, num_heads=2, num_levels=2, num_points=2, ffn_dim=16, dropout=0.0)
STRIDES = (8, 16)

# Two layers of float32 on layer-normalised values of size 1; places of samples differ by their rounding.
SAME = 2e-5


def images(height: int, width: int, *sizes: tuple[int, int]) -> ImageBatch:
    """Images of so many pixels in a batch of height x width."""
    padding = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for mask, (rows, columns) in zip(padding, sizes, strict=True):
        mask[:rows, :columns] = False
    return ImageBatch(torch.zeros(len(sizes), 3, height, width), padding, torch.tensor(sizes, dtype=torch.float32))


def maps_for(batch: ImageBatch) -> list[Tensor]:
    """One map a stride, sizes rounded up as a backbone does."""
    count, height, width = batch.padding.shape
    return [torch.randn(count, SIZE.dim, -(-height // stride), -(-width // stride)) for stride in STRIDES]


def encoder(num_layers: int) -> DeformableEncoder:
    """With every parameter away from its initial value."""
    module = DeformableEncoder(SIZE, num_layers=num_layers, temperature=20.0, offset=0.5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module


def test_tokens_lie_level_by_level_and_row_by_row() -> None:
    batch = images(32, 48, (32, 48), (24, 20))
    maps = maps_for(batch)
    memory = encoder(0)(maps, batch, STRIDES)
    assert memory.shapes == ((4, 6), (2, 3)) and memory.strides == STRIDES
    assert memory.tokens.shape == (2, 30, 8)
    assert torch.equal(memory.tokens[1, 1 * 6 + 4], maps[0][1, :, 1, 4])
    assert torch.equal(memory.tokens[0, 24 + 1 * 3 + 2], maps[1][0, :, 1, 2])
    assert torch.equal(memory.sizes, batch.sizes)


def test_padding_of_the_tokens() -> None:
    batch = images(32, 48, (32, 48), (24, 20))
    padding = encoder(0)(maps_for(batch), batch, STRIDES).padding
    assert not padding[0].any()
    # 24 x 20 pixels: three rows and three columns of 8 (the third begins at 16), two of 16.
    assert padding[1, :24].view(4, 6).tolist() == [[False] * 3 + [True] * 3] * 3 + [[True] * 6]
    assert padding[1, 24:].view(2, 3).tolist() == [[False, False, True]] * 2


def test_positions_are_those_of_the_cells_plus_their_levels() -> None:
    batch = images(32, 48, (32, 48))
    module = encoder(0)
    pos = module(maps_for(batch), batch, STRIDES).pos
    fine = image_position(torch.zeros(1, 4, 6, dtype=torch.bool), 4, temperature=20.0, offset=0.5).flatten(1, 2)
    coarse = image_position(torch.zeros(1, 2, 3, dtype=torch.bool), 4, temperature=20.0, offset=0.5).flatten(1, 2)
    torch.testing.assert_close(pos[:, :24], fine + module.level_embed[0])
    torch.testing.assert_close(pos[:, 24:], coarse + module.level_embed[1])


def test_padding_changes_nothing_in_the_image() -> None:
    """An image alone and the same image in a larger batch: equal maps give equal tokens.

    It fills 3 of 8 rows of the fine level and 2 of 4 of the coarse one, so that the levels' valid shares differ.
    """
    alone, padded = images(24, 24, (24, 24)), images(64, 96, (24, 24))
    small, large = maps_for(alone), maps_for(padded)
    for inside, around in zip(small, large, strict=True):
        around[..., : inside.shape[-2], : inside.shape[-1]] = inside
    module = encoder(2)
    expected = module(small, alone, STRIDES)
    memory = module(large, padded, STRIDES)
    assert memory.tokens.isfinite().all()
    torch.testing.assert_close(memory.tokens[~memory.padding], expected.tokens[0], atol=SAME, rtol=0)
    torch.testing.assert_close(memory.pos[~memory.padding], expected.pos[0], atol=SAME, rtol=0)


def test_what_lies_in_the_padding_is_not_seen() -> None:
    batch = images(32, 48, (32, 48), (24, 20))
    module, maps = encoder(2), maps_for(batch)
    before = module(maps, batch, STRIDES)
    maps[0][1, :, 3], maps[1][1, :, :, 2] = 50.0, -50.0  # the last row of the fine, the last column of the coarse level
    after = module(maps, batch, STRIDES)
    assert torch.equal(before.tokens[~before.padding], after.tokens[~before.padding])
    assert not torch.equal(before.tokens, after.tokens)


def test_levels_exchange_information() -> None:
    batch = images(32, 48, (32, 48))
    module, maps = encoder(1), maps_for(batch)
    # Samples one and two cells to the left and to the right: every token reads a cell of both levels.
    module.layers[0].self_attention.reset_parameters()
    before = module(maps, batch, STRIDES).tokens
    after = module([maps[0], maps[1] + torch.randn_like(maps[1])], batch, STRIDES).tokens
    assert ((before - after)[0, :24].abs().sum(-1) > 0).all()


def test_gradients_reach_every_parameter() -> None:
    batch = images(32, 48, (32, 48), (24, 20))
    module = encoder(2)
    tokens = module(maps_for(batch), batch, STRIDES).tokens
    (tokens * torch.randn_like(tokens)).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
