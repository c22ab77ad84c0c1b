"""The neck of the single-scale family."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from codetr.errors import UserError
from codetr.models.necks.projection import Projection


def neck(*, dim: int = 8, num_groups: int = 0, channels: tuple[int, ...] = (6,)) -> Projection:
    strides = (16, 32)[-len(channels) :]
    return Projection(Projection.Config(dim=dim, num_groups=num_groups), channels=channels, strides=strides)


def test_the_map_is_projected() -> None:
    module, feature = neck(), torch.randn(2, 6, 3, 4)
    (level,) = module([feature])
    assert (module.dim, module.strides) == (8, (32,))
    torch.testing.assert_close(level, F.conv2d(feature, module.conv.weight, module.conv.bias))
    assert sum(p.numel() for p in module.parameters()) == 6 * 8 + 8


def test_a_norm_may_follow() -> None:
    module, feature = neck(num_groups=2), torch.randn(2, 6, 3, 4)
    (level,) = module([feature])
    torch.testing.assert_close(level, F.group_norm(module.conv(feature), 2))
    assert sum(p.numel() for p in module.parameters()) == 6 * 8 + 8 + 2 * 8


def test_more_than_one_map_is_an_error() -> None:
    with pytest.raises(UserError, match=r"takes one map, the backbone gives 2: backbone\.stages=\[4\]"):
        neck(channels=(4, 6))


def test_a_width_that_the_groups_do_not_divide_is_an_error() -> None:
    with pytest.raises(UserError, match=r"neck\.dim is 8; it must be a multiple of neck\.num_groups \(3\)"):
        neck(num_groups=3)
