"""Positions in Anchor DETR."""

from __future__ import annotations

import pytest
import torch
from anchor_plain import double, in_plane, on_axis

from codetr.models.parts.anchor_position import AnchorPosition, axis_coordinates

# Two layers in float32 on values of size 1.
SAME = 1e-5


def test_cells_are_counted_over_the_image_without_its_padding() -> None:
    padding = torch.ones(2, 3, 4, dtype=torch.bool)
    padding[0] = False
    padding[1, :2, :3] = False
    x, y = axis_coordinates(padding)
    torch.testing.assert_close(x, torch.tensor([[0.125, 0.375, 0.625, 0.875], [1 / 6, 1 / 2, 5 / 6, 5 / 6]]))
    torch.testing.assert_close(y, torch.tensor([[1 / 6, 1 / 2, 5 / 6], [0.25, 0.75, 0.75]]))
    # No eps: the division by a count is exact.
    assert x[0, 0].item() == 0.125


def test_an_image_that_is_all_padding_has_finite_positions() -> None:
    x, y = axis_coordinates(torch.ones(1, 2, 3, dtype=torch.bool))
    assert x.tolist() == [[-0.5] * 3] and y.tolist() == [[-0.5] * 2]


@torch.no_grad()
def test_embeddings_equal_those_of_a_plain_loop() -> None:
    module = AnchorPosition(8, decoupled=True)
    state = double(module.state_dict())
    places = [(0.1, 0.9), (0.5, 0.25), (-0.02, 1.03)]
    found = module.of_places(torch.tensor([places]))
    torch.testing.assert_close(found[0].double(), in_plane(state, places, 8), atol=SAME, rtol=0)
    found = module.of_coordinates(torch.tensor([[0.1, 0.5, 0.9, 1.1]]))
    torch.testing.assert_close(found[0].double(), on_axis(state, [0.1, 0.5, 0.9, 1.1], 8), atol=SAME, rtol=0)


@torch.no_grad()
def test_the_grid_of_a_map() -> None:
    padding = torch.zeros(2, 3, 4, dtype=torch.bool)
    padding[1, 2:] = True
    padding[1, :, 1:] = True
    features = torch.randn(2, 3, 4, 8)
    module = AnchorPosition(8, decoupled=True)
    grid = module.grid(features, padding)
    assert grid.features is features and grid.x.shape == (2, 4, 8) and grid.y.shape == (2, 3, 8)
    assert grid.padded_x.tolist() == [[False] * 4, [False] + [True] * 3]
    assert grid.padded_y.tolist() == [[False] * 3, [False, False, True]]
    # One MLP for both axes: the middle of the three rows is half way down, as is the only column of the other image.
    torch.testing.assert_close(grid.y[0, 1], grid.x[1, 0])


@pytest.mark.parametrize(("decoupled", "axis"), [(True, True), (False, False)])
def test_coordinates_alone_have_an_mlp_only_where_they_are_used(decoupled: bool, axis: bool) -> None:
    assert (AnchorPosition(8, decoupled=decoupled).axis is not None) == axis
