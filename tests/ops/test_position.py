"""Sine embeddings of coordinates and of cells."""

from __future__ import annotations

import math

import torch
from transformers.models.deformable_detr.modeling_deformable_detr import DeformableDetrSinePositionEmbedding

from codetr.ops.position import image_position, sine_embedding

# An angle of up to 2 pi in float32 is off by 5e-7; the 1e-6 added to the extent of an image adds at most 6e-6.
ANGLE = 1e-6
CELL = 1e-5


def test_sine_and_cosine_alternate() -> None:
    # Divisors 1, 1, 100, 100 of 2 pi / 4.
    small = math.pi / 200
    expected = torch.tensor([1.0, 0.0, math.sin(small), math.cos(small)])
    torch.testing.assert_close(sine_embedding(torch.tensor([0.25]), 4), expected, atol=ANGLE, rtol=0)


def test_coordinates_keep_their_order() -> None:
    # Two features each: sine and cosine of 2 pi x.
    coordinates = torch.tensor([[[0.25, 0.5, 0.75, 0.0]]])
    expected = torch.tensor([[[1.0, 0, 0, -1, -1, 0, 0, 1]]])
    torch.testing.assert_close(sine_embedding(coordinates, 2), expected, atol=ANGLE, rtol=0)


def test_temperature_divides_the_later_frequencies() -> None:
    # Divisors 1 and 16 ** (2 / 4) = 4.
    expected = torch.tensor([0.0, -1.0, math.sin(math.pi / 4), math.cos(math.pi / 4)])
    found = sine_embedding(torch.tensor([0.5]), 4, temperature=16.0)
    torch.testing.assert_close(found, expected, atol=ANGLE, rtol=0)


def test_half_precision_coordinates_are_embedded_in_single_precision() -> None:
    coordinates = torch.rand(5, 4).bfloat16()
    found = sine_embedding(coordinates, 8)
    assert found.dtype == torch.float32 and found.shape == (5, 32)
    assert torch.equal(found, sine_embedding(coordinates.float(), 8))


def test_cells_count_from_the_middle_of_the_first_with_offset_one_half() -> None:
    # Two rows and two columns: places 0.25 and 0.75; sine and cosine of 2 pi y, then of 2 pi x.
    found = image_position(torch.zeros(1, 2, 2, dtype=torch.bool), 2, offset=0.5)
    expected = torch.tensor([[[[1.0, 0, 1, 0], [1, 0, -1, 0]], [[-1, 0, 1, 0], [-1, 0, -1, 0]]]])
    torch.testing.assert_close(found, expected, atol=CELL, rtol=0)


def test_cells_end_at_one_without_offset() -> None:
    # One row, two columns: y at 1, x at 0.5 and 1.
    found = image_position(torch.zeros(1, 1, 2, dtype=torch.bool), 2)
    expected = torch.tensor([[[[0.0, 1, 0, -1], [0, 1, 0, 1]]]])
    torch.testing.assert_close(found, expected, atol=CELL, rtol=0)


def test_padding_does_not_count() -> None:
    # Of 3 x 5 cells the second image fills 2 x 4.
    padding = torch.zeros(2, 3, 5, dtype=torch.bool)
    padding[1, 2:] = True
    padding[1, :, 4:] = True
    found = image_position(padding, 6, offset=0.5)
    assert found.shape == (2, 3, 5, 12) and found.isfinite().all()
    full = image_position(torch.zeros(1, 2, 4, dtype=torch.bool), 6, offset=0.5)
    assert torch.equal(found[1, :2, :4], full[0])
    assert not torch.allclose(found[0, :2, :4], full[0], atol=0.1)


def test_equals_transformers_on_the_cells_of_the_image() -> None:
    padding = torch.zeros(2, 7, 9, dtype=torch.bool)
    padding[1, 5:] = True
    padding[1, :, 6:] = True
    theirs = DeformableDetrSinePositionEmbedding(16, normalize=True)
    expected = theirs(torch.Size([2, 32, 7, 9]), "cpu", torch.float32, ~padding).permute(0, 2, 3, 1)
    found = image_position(padding, 16, offset=0.5)
    # Padded cells are of no interest: their angle is -0.5 / 1e-6.
    torch.testing.assert_close(found[~padding], expected[~padding], atol=ANGLE, rtol=0)
