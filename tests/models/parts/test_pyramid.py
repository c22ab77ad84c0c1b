"""From the encoder's memory to the pyramid of the heads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from codetr.models.parts.pyramid import PyramidAdapter
from codetr.structures import Memory

DIM = 8


def memory(shapes: tuple[tuple[int, int], ...], strides: tuple[int, ...]) -> Memory:
    tokens = torch.randn(2, sum(h * w for h, w in shapes), DIM, requires_grad=True)
    padding = torch.zeros(tokens.shape[:2], dtype=torch.bool)
    return Memory(tokens, torch.zeros_like(tokens), padding, shapes, strides, torch.tensor([[48.0, 64.0]] * 2))


def test_maps_of_several_levels_stay_as_they_are() -> None:
    given = memory(((6, 8), (3, 4)), (8, 16))
    adapter = PyramidAdapter(DIM, given.strides, num_groups=4)
    pyramid = adapter(given)
    assert pyramid.strides == adapter.strides == (8, 16, 32)
    assert [tuple(m.shape) for m in pyramid.maps] == [(2, DIM, 6, 8), (2, DIM, 3, 4), (2, DIM, 2, 2)]
    first, second = given.tokens[:, :48], given.tokens[:, 48:]
    assert torch.equal(pyramid.maps[0], first.transpose(1, 2).reshape(2, DIM, 6, 8))
    assert torch.equal(pyramid.maps[1], second.transpose(1, 2).reshape(2, DIM, 3, 4))
    assert torch.equal(pyramid.sizes, given.sizes)


def test_the_level_added_is_a_normalised_stride_2_convolution_of_the_coarsest() -> None:
    given = memory(((6, 8), (3, 4)), (8, 16))
    adapter = PyramidAdapter(DIM, given.strides, num_groups=4)
    (block,) = adapter.convs
    conv, norm = block[0], block[1]
    expected = F.conv2d(given.maps()[1], conv.weight, conv.bias, stride=2, padding=1)
    expected = F.group_norm(expected, 4, norm.weight, norm.bias)
    torch.testing.assert_close(adapter(given).maps[2], expected)


@pytest.mark.parametrize(
    ("stride", "shape", "added"),
    [
        (32, (2, 3), [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]),
        (16, (4, 6), [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]),
        (8, (8, 12), [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]),
        (16, (5, 7), [(10, 14), (5, 7), (3, 4), (2, 2), (1, 1)]),
    ],
)
def test_a_single_map_becomes_strides_8_to_128(
    stride: int, shape: tuple[int, int], added: list[tuple[int, int]]
) -> None:
    given = memory((shape,), (stride,))
    pyramid = PyramidAdapter(DIM, given.strides, num_groups=4)(given)
    assert pyramid.strides == (8, 16, 32, 64, 128)
    assert [tuple(m.shape[-2:]) for m in pyramid.maps] == added


def test_finer_levels_are_upsampled_and_coarser_ones_follow_each_other() -> None:
    given = memory(((2, 3),), (32,))
    adapter = PyramidAdapter(DIM, given.strides, num_groups=4)
    (feature,), maps, convs = given.maps(), adapter(given).maps, adapter.convs
    for level, scale in enumerate((4, 2)):
        larger = F.interpolate(feature, scale_factor=scale, mode="bilinear", align_corners=False)
        torch.testing.assert_close(maps[level], convs[level](larger))
    torch.testing.assert_close(maps[2], convs[2](feature))
    torch.testing.assert_close(maps[3], convs[3](feature))
    torch.testing.assert_close(maps[4], convs[4](maps[3]))


@pytest.mark.parametrize(
    ("strides", "expected"),
    [((8, 16, 32, 64), (8, 16, 32, 64, 128)), ((4, 8), (4, 8, 16)), ((32,), (8, 16, 32, 64, 128))],
)
def test_strides_are_known_before_the_adapter_is(strides: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert PyramidAdapter.strides_for(strides) == expected
    assert PyramidAdapter(DIM, strides, num_groups=4).strides == expected


@pytest.mark.parametrize("levels", [1, 2])
def test_gradients_reach_the_memory_from_every_map(levels: int) -> None:
    given = memory(((6, 8), (3, 4))[:levels], (8, 16)[:levels])
    pyramid = PyramidAdapter(DIM, given.strides, num_groups=4)(given)
    for feature in pyramid.maps:
        weight = torch.randn_like(feature)  # a sum of normalised values has no gradient
        (grad,) = torch.autograd.grad((feature * weight).sum(), given.tokens, retain_graph=True)
        assert grad.abs().sum() > 0
