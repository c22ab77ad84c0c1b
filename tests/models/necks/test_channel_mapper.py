"""The neck: one width for every level, coarser levels by convolution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from codetr.errors import UserError
from codetr.models.necks.channel_mapper import ChannelMapper

CHANNELS, STRIDES = (4, 6, 10), (8, 16, 32)


def neck(**settings: Any) -> ChannelMapper:
    config = ChannelMapper.Config(**{"dim": 8, "num_groups": 2, **settings})
    return ChannelMapper(config, channels=CHANNELS, strides=STRIDES)


def maps() -> list[Tensor]:
    return [torch.randn(2, width, 96 // stride, 64 // stride) for width, stride in zip(CHANNELS, STRIDES, strict=True)]


def normalised(block: Any, x: Tensor, **options: int) -> Tensor:
    conv, norm = block
    return F.group_norm(F.conv2d(x, conv.weight, conv.bias, **options), 2, norm.weight, norm.bias)


def test_every_map_is_projected_and_extra_levels_start_from_the_backbone() -> None:
    module, given = neck(num_levels=5), maps()
    levels = module(given)
    assert module.strides == (8, 16, 32, 64, 128) and module.dim == 8
    assert [tuple(level.shape) for level in levels] == [
        (2, 8, h, w) for h, w in [(12, 8), (6, 4), (3, 2), (2, 1), (1, 1)]
    ]
    for block, feature, level in zip(module.projections, given, levels, strict=False):
        torch.testing.assert_close(level, normalised(block, feature))
    torch.testing.assert_close(levels[3], normalised(module.extra[0], given[2], stride=2, padding=1))
    torch.testing.assert_close(levels[4], normalised(module.extra[1], levels[3], stride=2, padding=1))


def test_no_extra_level() -> None:
    module = neck(num_levels=3)
    assert module.strides == STRIDES and len(module.extra) == 0
    assert len(module(maps())) == 3


@pytest.mark.parametrize("bias", [True, False])
def test_bias_and_initial_weights(bias: bool) -> None:
    module = neck(num_levels=4, bias=bias)
    blocks = [*module.projections, *module.extra]
    assert len(blocks) == 4
    for conv, _ in blocks:
        assert (conv.bias is not None) is bias
        assert conv.bias is None or (conv.bias == 0).all()
        area = conv.kernel_size[0] ** 2
        bound = (6 / (area * (conv.in_channels + conv.out_channels))) ** 0.5
        # Xavier: uniform up to the bound; of 32 or more draws the largest is above half of it.
        assert bound / 2 < conv.weight.abs().max() <= bound


def test_fewer_levels_than_maps_are_an_error() -> None:
    with pytest.raises(UserError, match=r"neck\.num_levels is 2, but the backbone gives 3 maps; raise it to 3 or more"):
        neck(num_levels=2)


def test_a_width_that_the_groups_do_not_divide_is_an_error() -> None:
    with pytest.raises(UserError, match=r"neck\.dim is 8; it must be a multiple of neck\.num_groups \(3\)"):
        neck(num_groups=3)
