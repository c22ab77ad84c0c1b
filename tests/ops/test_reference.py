"""Reference points on padded levels."""

from __future__ import annotations

import math

import torch

from codetr.ops import reference as ops


def mask(height: int, width: int, rows: int, columns: int) -> torch.Tensor:
    """Padding of a level of which rows x columns belong to the image."""
    padding = torch.ones(height, width, dtype=torch.bool)
    padding[:rows, :columns] = False
    return padding


# Two images on levels of 2 x 4 and 1 x 2 cells; the second fills 1 x 3 and 1 x 1 of them.
SHAPES = ((2, 4), (1, 2))
PADDING = torch.stack([torch.zeros(10, dtype=torch.bool), torch.cat([mask(2, 4, 1, 3).flatten(), mask(1, 2, 1, 1)[0]])])
RATIOS = torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[0.75, 0.5], [0.5, 1.0]]])


def test_inverse_sigmoid() -> None:
    x = torch.tensor([0.5, 0.75, 0.25, 0.0, 1.0, -3.0, 7.0])
    limit = math.log((1 - 1e-5) / 1e-5)
    expected = torch.tensor([0.0, math.log(3), -math.log(3), -limit, limit, -limit, limit])
    # 1 - (1 - 1e-5) has a relative error of 6e-8 / 1e-5 in float32, and that is the logarithm's absolute error.
    torch.testing.assert_close(ops.inverse_sigmoid(x), expected, atol=1e-2, rtol=0)
    torch.testing.assert_close(ops.inverse_sigmoid(x[:3]), expected[:3])
    torch.testing.assert_close(ops.inverse_sigmoid(x[3:5], eps=0.25), torch.tensor([-math.log(3), math.log(3)]))


def test_inverse_sigmoid_of_half_precision_is_finite() -> None:
    found = ops.inverse_sigmoid(torch.tensor([0.0, 1.0], dtype=torch.float16))
    assert found.dtype == torch.float32 and found.isfinite().all()


def test_inverse_sigmoid_inverts_away_from_the_ends() -> None:
    logits = torch.linspace(-8, 8, 33)
    # The sigmoid of 8 lies 3e-4 below 1 and is rounded by 3e-8: 1e-4 in logits.
    torch.testing.assert_close(ops.inverse_sigmoid(logits.sigmoid()), logits, atol=3e-4, rtol=0)


def test_valid_ratios_are_width_then_height() -> None:
    assert torch.equal(ops.valid_ratios(PADDING, SHAPES), RATIOS)


def test_cell_centres_are_in_units_of_the_image_without_padding() -> None:
    centres = ops.cell_centres(SHAPES, RATIOS)
    row = [0.125, 0.375, 0.625, 0.875]
    whole = [[x, y] for y in (0.25, 0.75) for x in row] + [[0.25, 0.5], [0.75, 0.5]]
    torch.testing.assert_close(centres[0], torch.tensor(whole))
    padded = [[x / 0.75, y / 0.5] for y in (0.25, 0.75) for x in row] + [[0.5, 0.5], [1.5, 0.5]]
    torch.testing.assert_close(centres[1], torch.tensor(padded))


def test_an_encoder_token_points_at_the_same_place_of_every_level() -> None:
    references = ops.encoder_references(SHAPES, RATIOS)
    assert references.shape == (2, 10, 2, 2)
    # Its own place in units of its own padded level.
    torch.testing.assert_close(references[1, 0, 0], torch.tensor([0.125, 0.25]))
    torch.testing.assert_close(references[1, 8, 1], torch.tensor([0.25, 0.5]))
    # The one cell of the coarse level is the whole image: 3 x 1 cells of the fine level.
    torch.testing.assert_close(references[1, 8, 0], torch.tensor([0.5 * 0.75, 0.5 * 0.5]))
    torch.testing.assert_close(references[1, 0, 1], torch.tensor([0.125 / 0.75 * 0.5, 0.25 / 0.5]))
    torch.testing.assert_close(references[0, :, 0], references[0, :, 1])  # without padding all levels agree


def test_points_and_boxes_on_levels() -> None:
    points = torch.tensor([[[0.4, 0.8]], [[0.4, 0.8]]])
    found = ops.on_levels(points, RATIOS)
    torch.testing.assert_close(found[:, 0], torch.tensor([[[0.4, 0.8]] * 2, [[0.3, 0.4], [0.2, 0.8]]]))
    boxes = torch.tensor([[[0.4, 0.8, 0.2, 0.1]], [[0.4, 0.8, 0.2, 0.1]]])
    found = ops.on_levels(boxes, RATIOS)
    padded = [[0.3, 0.4, 0.15, 0.05], [0.2, 0.8, 0.1, 0.1]]
    torch.testing.assert_close(found[:, 0], torch.tensor([[[0.4, 0.8, 0.2, 0.1]] * 2, padded]))


def test_padding_of_levels() -> None:
    image = torch.stack([mask(4, 8, 4, 8), mask(4, 8, 3, 5)])
    fine, coarse = ops.level_padding(image, ((2, 4), (1, 2)))
    # A cell takes the mask of its first pixel: rows 0 and 2, columns 0, 2, 4, 6.
    assert torch.equal(fine, torch.stack([mask(2, 4, 2, 4), mask(2, 4, 2, 3)]))
    assert torch.equal(coarse, torch.stack([mask(1, 2, 1, 2), mask(1, 2, 1, 2)]))
    assert fine.dtype == torch.bool
