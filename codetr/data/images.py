"""Image files to RGB pixels: any mode that Pillow reads, JPEG through simplejpeg where that is installed.

Pixels are taken as they are stored. The EXIF orientation is ignored, as COCO does: its boxes refer to the stored
pixels. An alpha channel is dropped. Sixteen bits of grey become their upper eight.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from codetr.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

JPEG_START = b"\xff\xd8"
EXIF_ORIENTATION = 0x0112


class BadImage(UserError):
    """An image file that is missing, truncated, not an image, or not of the size that its annotations say."""


def load_image(file: Path) -> Tensor:
    """The pixels of a file, (3, H, W) uint8, RGB.

    Raises: BadImage, naming the file, if it cannot be read or decoded to its end.
    """
    import torch

    return torch.from_numpy(decode(read_bytes(file), file)).permute(2, 0, 1).contiguous()


def read_bytes(file: Path) -> bytes:
    """The content of a file. Raises: BadImage if it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadImage(f"{file}: cannot be read ({error.strerror})") from error


def decode(content: bytes, file: Path) -> NDArray[np.uint8]:
    """The pixels of an encoded image, (H, W, 3) uint8, RGB; `file` is named in errors.

    Raises: BadImage if the content is truncated, or not an image.
    """
    simplejpeg = _simplejpeg()
    if simplejpeg is not None and content.startswith(JPEG_START):
        try:
            if simplejpeg.decode_jpeg_header(content)[2] in ("YCbCr", "Gray", "GRAY"):
                pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, "RGB")
                return pixels
        except ValueError:
            pass  # strict about recoverable flaws; Pillow decides whether the picture is complete
    return _decode_with_pillow(content, file)


def image_size(file: Path) -> tuple[int, int]:
    """Height and width of an image file, read from its header. Raises: BadImage."""
    try:
        with Image.open(file) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadImage(f"{file}: not a readable image ({error})") from error


def is_turned(file: Path) -> bool:
    """True if the EXIF orientation of a file exchanges its height and width when it is shown."""
    try:
        with Image.open(file) as image:
            return image.getexif().get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    except (OSError, ValueError, SyntaxError):  # a broken EXIF block turns nothing
        return False


@cache
def _simplejpeg() -> ModuleType | None:
    return importlib.import_module("simplejpeg") if importlib.util.find_spec("simplejpeg") else None


def _decode_with_pillow(content: bytes, file: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(BytesIO(content)) as image:
            image.load()
            return np.array(_to_rgb(image))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadImage(f"{file}: truncated or not an image ({error})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    if image.mode.startswith("I"):  # Pillow would clip, and so whiten, 16-bit grey
        grey = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        image = Image.fromarray(grey.astype(np.uint8))
    if image.mode in ("P", "PA", "LA"):  # a palette may hold transparency, which a direct conversion warns about
        image = image.convert("RGBA")
    return image.convert("RGB")
