"""Pictures made ready for a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from codetr.data.images import EXIF_ORIENTATION
from codetr.prediction.reading import Failed, Reader, Ready, size_of, upright

READER = Reader(max_pixels=10_000)
ARRAY = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)


def noted(orientation: int) -> Image.Exif:
    note = Image.Exif()
    note[EXIF_ORIENTATION] = orientation
    return note


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_turned_as_pillow_turns_them(orientation: int, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(ARRAY).save(file, exif=noted(orientation))
    with Image.open(file) as image:
        expected = torch.from_numpy(np.array(ImageOps.exif_transpose(image))).permute(2, 0, 1)
        for given in (file, str(file), image):
            ready = READER((4, given))
            assert isinstance(ready, Ready)
            assert torch.equal(ready.pixels, expected) and ready.pixels.is_contiguous()
            assert ready.size == tuple(expected.shape[1:]) == size_of(given) and ready.orientation == orientation
            assert ready.index == 4 and ready.file == (str(file) if given is not image else None)
    assert torch.equal(torch.from_numpy(upright(ARRAY, orientation)), expected)


def test_an_array_is_taken_as_it_is() -> None:
    ready = READER((0, ARRAY))
    assert isinstance(ready, Ready) and torch.equal(ready.pixels, torch.from_numpy(ARRAY).permute(2, 0, 1))
    assert size_of(ARRAY) == (5, 7)


def test_a_very_large_picture_is_read_smaller(tmp_path: Path) -> None:
    file = tmp_path / "large.jpg"
    Image.new("RGB", (300, 100), "red").save(file, exif=noted(6))  # three times as many pixels as may be
    ready = READER((0, file))
    assert isinstance(ready, Ready) and ready.size == (300, 100) == size_of(file)
    assert ready.pixels.shape == (3, 150, 50)


@pytest.mark.parametrize("given", ["nowhere.jpg", "empty.jpg", np.zeros((4, 4)), np.zeros((4, 4, 3))])
def test_what_cannot_be_used(given: str | np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    picture = tmp_path / given if isinstance(given, str) else given
    failed = READER((3, picture))
    assert isinstance(failed, Failed) and failed.index == 3
    assert (given if isinstance(given, str) else "a picture as an array is (height, width, 3)") in str(failed.error)
    if isinstance(given, str):
        assert size_of(picture) == (0, 0)
