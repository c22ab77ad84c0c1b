"""Pictures as they are given, made ready for a model.

Files and PIL images are turned upright by their EXIF orientation, as every viewer shows them. (In evaluation pixels are
taken as they are stored, which is what the annotations of COCO refer to.)

Readers are threads beside the model's, and use NumPy alone: a reader that calls PyTorch has its own threads of OpenMP,
which spin for work and slow a model on the same CPU down to half its speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from codetr.data.images import EXIF_ORIENTATION, TURNED, BadImage, decode, image_size, orientation, read_bytes
from codetr.errors import UserError

Picture = str | Path | Image.Image | NDArray[np.uint8]
Size = tuple[int, int]


@dataclass(frozen=True)
class Ready:
    """A picture that has been read.

    pixels: (3, h, w) uint8, upright. size: its height and width; `pixels` may be smaller. orientation: the EXIF
    orientation that it was turned from.
    """

    index: int
    file: str | None
    pixels: Tensor
    size: Size
    orientation: int


@dataclass(frozen=True)
class Failed:
    """A picture that cannot be used, and why."""

    index: int
    error: UserError


@dataclass(frozen=True)
class Reader:
    """Reads pictures. max_pixels: as in `data`."""

    max_pixels: int

    def __call__(self, numbered: tuple[int, Picture]) -> Ready | Failed:
        index, picture = numbered
        try:
            pixels, size, turned = self._read(picture)
        except UserError as error:
            return Failed(index, error)
        file = str(picture) if isinstance(picture, (str, Path)) else None
        return Ready(index, file, torch.from_numpy(pixels), size, turned)

    def _read(self, picture: Picture) -> tuple[NDArray[np.uint8], Size, int]:
        if isinstance(picture, (str, Path)):
            content = read_bytes(Path(picture))
            turned = orientation(content)
            pixels = upright(decode(content, Path(picture), max_pixels=self.max_pixels), turned)
            return pixels, upright_size(image_size(Path(picture), content), turned), turned
        turned = 1
        if isinstance(picture, Image.Image):
            turned = int(picture.getexif().get(EXIF_ORIENTATION, 1))
            picture = np.array(ImageOps.exif_transpose(picture).convert("RGB"))
        pixels = upright(_checked(picture), 1)
        return pixels, (pixels.shape[1], pixels.shape[2]), turned


def size_of(picture: Picture) -> Size:
    """Height and width of a picture, upright, from its header; (0, 0) if it cannot be read."""
    if isinstance(picture, Image.Image):
        return upright_size((picture.height, picture.width), int(picture.getexif().get(EXIF_ORIENTATION, 1)))
    if isinstance(picture, np.ndarray):
        return (picture.shape[0], picture.shape[1]) if picture.ndim == 3 else (0, 0)
    try:
        return upright_size(image_size(Path(picture)), orientation(Path(picture)))
    except BadImage:
        return 0, 0


def upright_size(stored: Size, exif_orientation: int) -> Size:
    """Height and width after an image of the `stored` size is turned upright."""
    return stored[::-1] if exif_orientation in TURNED else stored


def upright(pixels: NDArray[np.uint8], exif_orientation: int) -> NDArray[np.uint8]:
    """Stored pixels (H, W, 3) as they are to be shown, (3, h, w). Source: Exif 2.3, tag 0x0112."""
    flips = {2: (2,), 3: (1, 2), 4: (1,), 5: (), 6: (2,), 7: (1, 2), 8: (1,)}
    axes = (2, 1, 0) if exif_orientation in TURNED else (2, 0, 1)
    return np.array(np.flip(pixels.transpose(axes), flips.get(exif_orientation, ())), order="C")


def _checked(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise UserError(
            f"a picture as an array is (height, width, 3), uint8, RGB; this one is {array.shape}, {array.dtype}. "
            "Convert it, or give a PIL image or a path."
        )
    return array
