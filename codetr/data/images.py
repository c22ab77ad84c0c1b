"""Image files to RGB pixels: any mode that Pillow reads, JPEG through simplejpeg where that is installed.

Pixels are taken as they are stored. The EXIF orientation is ignored, as COCO does: its boxes refer to the stored
pixels. An alpha channel is dropped. Sixteen bits of grey become their upper eight. The first frame of an animation or
of several pages is taken. A file of more than `data.max_pixels` pixels is decoded at a half, a quarter or an eighth of
its size if it is a baseline JPEG, which needs no more memory than the result does, and refused otherwise.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from codetr.data.config import MAX_PIXELS
from codetr.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.uint8]

JPEG_START = b"\xff\xd8"
EXIF_ORIENTATION = 0x0112
TURNED = (5, 6, 7, 8)  # the orientations that exchange height and width


class BadImage(UserError):
    """An image file that is missing, truncated, not an image, too large, or not of the size that its annotations say.

    size: height and width, if the file states them.
    """

    def __init__(self, message: str, size: tuple[int, int] | None = None) -> None:
        super().__init__(message)
        self.size = size


class _OtherPixels(ValueError):
    """Pixels that have no meaning as colours. The message says what to do."""


class TooManyPixels(BadImage):
    """An image that is sound, but has to be decoded whole and is larger than `data.max_pixels`."""


def load_image(file: Path, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """The pixels of a file, (3, H, W) uint8, RGB; of a large JPEG, at the size that `decode` gives it.

    Raises: BadImage, naming the file, if it cannot be read, is too large, or cannot be decoded to its end.
    """
    import torch

    return torch.from_numpy(decode(read_bytes(file), file, max_pixels=max_pixels)).permute(2, 0, 1).contiguous()


def read_bytes(file: Path) -> bytes:
    """The content of a file. Raises: BadImage if it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadImage(f"{file}: cannot be read ({error.strerror})") from error


def decode(content: bytes, file: Path, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """The pixels of an encoded image, (H, W, 3) uint8, RGB; `file` is named in errors.

    A baseline JPEG of more than `max_pixels` becomes smaller by `reduction`, its sides rounded up.
    Raises: BadImage if the content is truncated, not an image, or too large.
    """
    simplejpeg = _simplejpeg()
    if simplejpeg is not None and content.startswith(JPEG_START):
        try:
            height, width, space, _ = simplejpeg.decode_jpeg_header(content)
            factor = reduction((height, width), max_pixels)
            least = reduced((height, width), factor)
            fits = factor == 1 or (least[0] * least[1] <= max_pixels and not _is_progressive(content, file))
            if space in ("YCbCr", "Gray", "GRAY") and fits:
                pixels: Pixels = simplejpeg.decode_jpeg(content, "RGB", min_height=least[0], min_width=least[1])
                return pixels
        except ValueError:
            pass  # strict about recoverable flaws; Pillow decides whether the picture is complete
    with _opened(BytesIO(content), file) as image:
        _limit(image, file, max_pixels)
        image.load()
        return np.array(_to_rgb(image))


def reduction(size: tuple[int, int], max_pixels: int) -> int:
    """By how much a baseline JPEG of `size` (h, w) is decoded smaller: 1, 2, 4 or 8."""
    for factor in (1, 2, 4):
        height, width = reduced(size, factor)
        if height * width <= max_pixels:
            return factor
    return 8


def reduced(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """Height and width after such a reduction."""
    return -(-size[0] // factor), -(-size[1] // factor)


def grey_thumbnail(content: bytes, file: Path, side: int) -> Pixels:
    """An image squeezed into a square of grey levels, (side, side); a large JPEG is decoded at a reduced size.

    Raises: BadImage if the content is truncated, not an image, or too large.
    """
    with _opened(BytesIO(content), file) as image:
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            image.draft("L", (4 * side, 4 * side))
        _limit(image, file, MAX_PIXELS)
        return shrunk(_to_rgb(image), side)


def shrunk(image: Image.Image, side: int) -> Pixels:
    """A picture squeezed into a square of grey levels, (side, side)."""
    return np.asarray(image.convert("L").resize((side, side), Image.Resampling.BOX))


def image_size(file: Path, content: bytes | None = None) -> tuple[int, int]:
    """Height and width of an image file, read from its header (that of `content`, if given). Raises: BadImage."""
    with _opened(file if content is None else BytesIO(content), file) as image:
        return image.height, image.width


def orientation(content: bytes | Path) -> int:
    """The EXIF orientation of an image file or its content, 1 to 8; 1 if it states none that can be read."""
    try:
        with _PILLOW_LIMIT.lifted(), Image.open(BytesIO(content) if isinstance(content, bytes) else content) as image:
            found = Image.Image.getexif(image).get(EXIF_ORIENTATION, 1)  # that of PNG would decode the image first
    except Exception:  # a broken EXIF block turns nothing, and a broken file is told of where its pixels are needed
        return 1
    return found if found in range(1, 9) else 1


def is_turned(file: Path) -> bool:
    """True if the EXIF orientation of a file exchanges its height and width when it is shown."""
    return orientation(file) in TURNED


@cache
def _simplejpeg() -> ModuleType | None:
    return importlib.import_module("simplejpeg") if importlib.util.find_spec("simplejpeg") else None


@contextmanager
def _opened(source: BinaryIO | Path, file: Path) -> Iterator[Image.Image]:
    """An image of Pillow; whatever it raises inside becomes a BadImage."""
    size = None
    try:
        with _PILLOW_LIMIT.lifted(), Image.open(source) as image:
            size = (image.height, image.width)
            yield image
    except BadImage:
        raise
    except _OtherPixels as error:
        raise BadImage(f"{file}: {error}", size) from error
    except UnidentifiedImageError as error:
        raise BadImage(f"{file}: {_start(source)}") from error
    except Exception as error:  # decoders of many formats, given any bytes at all, raise any exception there is
        if isinstance(source, Path) and isinstance(error, OSError) and error.strerror:
            raise BadImage(f"{file}: cannot be read ({error.strerror})") from error
        raise BadImage(f"{file}: truncated or damaged ({error})", size) from error


def _is_progressive(content: bytes, file: Path) -> bool:
    with _opened(BytesIO(content), file) as image:
        return bool(image.info.get("progressive"))


def _start(source: BinaryIO | Path) -> str:
    """What a file is that is no image."""
    content = source.read_bytes()[:16] if isinstance(source, Path) else _rewound(source)
    if not content:
        return "the file is empty (0 bytes)"
    return f"not an image, or of a format that Pillow does not read; it starts with {content!r}"


def _rewound(source: BinaryIO) -> bytes:
    source.seek(0)
    return source.read(16)


def _limit(image: Image.Image, file: Path, max_pixels: int) -> None:
    """Makes a large baseline JPEG decode at a reduced size. Raises: TooManyPixels if an image has to be decoded whole.

    A progressive JPEG is: its coefficients are kept until the last scan, three to six bytes a pixel at any scale.
    """
    size = (image.height, image.width)
    if size[0] * size[1] <= max_pixels:
        return
    is_jpeg = isinstance(image, JpegImagePlugin.JpegImageFile)
    if is_jpeg and not image.info.get("progressive"):
        factor = reduction(size, max_pixels)
        image.draft(None, (size[1] // factor, size[0] // factor))
        reason = "it stays larger at an eighth of its size"
    else:
        name = "progressive JPEG" if is_jpeg else image.format
        reason = f"a {name} is decoded whole (about {10 * size[0] * size[1] / 1e9:.1f} GB)"
    if image.height * image.width > max_pixels:
        raise TooManyPixels(
            f"{file}: {size[1]} x {size[0]} pixels are more than data.max_pixels={max_pixels}, and {reason}; cut it "
            f"into tiles, save it as a baseline JPEG, which is decoded at a reduced size, or raise the setting",
            size,
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise _OtherPixels("its pixels are floating-point numbers; save it with 8 bits a channel")
    if image.mode.startswith("I"):  # Pillow would clip, and so whiten, 16-bit grey
        grey = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        image = Image.fromarray(grey.astype(np.uint8))
    if image.mode in ("P", "PA", "LA"):  # a palette may hold transparency, which a direct conversion warns about
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy it


class _PillowLimit:
    """Lifts Pillow's own limit of pixels, which is one for the process and warns; every image is checked here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limit = Image.MAX_IMAGE_PIXELS

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Inside, in this thread and others, there is no limit; it comes back when the last thread has left."""
        with self._lock:
            if self._users == 0:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    Image.MAX_IMAGE_PIXELS = self._limit


_PILLOW_LIMIT = _PillowLimit()
