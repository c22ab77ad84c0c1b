"""Anchors and cells."""

from __future__ import annotations

import math

import torch

from codetr.models.parts.priors import AnchorGrid, flat_cells
from codetr.structures import Pyramid


def pyramid() -> Pyramid:
    """A batch of 32 x 48 pixels, the second image valid to 17 x 40."""
    maps = (torch.zeros(2, 1, 4, 6), torch.zeros(2, 1, 2, 3))
    return Pyramid(maps, (8, 16), torch.tensor([[32.0, 48.0], [17.0, 40.0]]))


def test_anchors_are_centred_on_index_times_stride() -> None:
    priors = AnchorGrid(scale=8).priors(pyramid())
    assert priors.level_sizes == (24, 6)
    assert priors.boxes.shape == (30, 4)
    assert priors.boxes[0].tolist() == [-32, -32, 32, 32]
    assert priors.boxes[1].tolist() == [-24, -32, 40, 32]  # along the row first
    assert priors.boxes[6].tolist() == [-32, -24, 32, 40]
    assert priors.boxes[24].tolist() == [-64, -64, 64, 64]
    assert priors.boxes[29].tolist() == [-32, -48, 96, 80]


def test_ratio_before_size_at_constant_area() -> None:
    boxes = AnchorGrid(4, 2, (0.5, 1.0, 2.0)).priors(pyramid()).boxes
    first = boxes[:6]
    width, height = (first[:, 2:] - first[:, :2]).unbind(1)
    side = torch.tensor([32.0, 32 * math.sqrt(2)])
    torch.testing.assert_close((width * height).sqrt(), side.repeat(3))
    torch.testing.assert_close(height / width, torch.tensor([0.5, 0.5, 1, 1, 2, 2]))
    assert torch.equal(boxes[6:12], first + torch.tensor([8.0, 0, 8, 0]))


def test_valid_are_the_cells_that_begin_inside_the_image() -> None:
    first, second = AnchorGrid(8).priors(pyramid()).valid
    assert first.all()
    fine, coarse = second[:24].view(4, 6), second[24:].view(2, 3)
    assert fine.nonzero().tolist() == [[y, x] for y in range(3) for x in range(5)]  # ceil(17 / 8), ceil(40 / 8)
    assert coarse.nonzero().tolist() == [[y, x] for y in range(2) for x in range(3)]
    triple = AnchorGrid(8, 1, (0.5, 1.0, 2.0)).priors(pyramid()).valid[1]
    assert torch.equal(triple, second.repeat_interleave(3))
    assert AnchorGrid(8, in_padding=True).priors(pyramid()).valid.all()


def test_an_offset_shifts_the_centres() -> None:
    boxes = AnchorGrid(scale=1, offset=0.5).priors(pyramid()).boxes
    assert boxes[0].tolist() == [0, 0, 8, 8]
    assert boxes[29].tolist() == [32, 16, 48, 32]


def test_one_anchor_a_cell_lies_on_a_grid() -> None:
    grid = AnchorGrid(8).priors(pyramid()).grid
    assert grid is not None and grid.sizes is not None
    assert (grid.shapes, grid.strides, grid.offset) == (((4, 6), (2, 3)), (8, 16), 0.0)
    assert grid.sizes.tolist() == [[32, 48], [17, 40]]
    in_padding = AnchorGrid(8, in_padding=True, offset=0.5).priors(pyramid()).grid
    assert in_padding is not None and (in_padding.sizes, in_padding.offset) == (None, 0.5)
    assert AnchorGrid(8, 1, (0.5, 1.0)).priors(pyramid()).grid is None


def test_flat_cells_follow_the_anchors() -> None:
    """Channel a * 10 + c of cell (y, x): anchor a, value c."""
    y, x = torch.meshgrid(torch.arange(2.0), torch.arange(3.0), indexing="ij")
    channels = [1000 * a + 100 * c + 10 * y + x for a in range(2) for c in range(4)]
    flat = flat_cells((torch.stack(channels)[None], torch.full((1, 8, 1, 1), -1.0)), per_cell=2)
    assert flat.shape == (1, 14, 4)
    assert flat[0, :4].tolist() == [
        [0, 100, 200, 300],
        [1000, 1100, 1200, 1300],
        [1, 101, 201, 301],
        [1001, 1101, 1201, 1301],
    ]
    assert (flat[0, 12:] == -1).all()
