"""Looks at many image files at once: size, orientation, hashes, and whether they decode to their end. No torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from codetr.data.duplicates import SIDE, Words, fingerprint
from codetr.data.images import (
    BadImage,
    TooManyPixels,
    decode,
    grey_thumbnail,
    image_size,
    orientation,
    read_bytes,
    shrunk,
)

Depth = Literal["header", "thumbnail", "whole"]
_AT_ONCE = 1024  # files that wait for a thread, so that a list of millions needs no memory of its own


@dataclass(frozen=True)
class Look:
    """What one image file turned out to be.

    size: height and width, if they are known. is_reduced: it was decoded smaller, being very large. is_sound: what is
    wrong with it is its size alone.
    """

    size: tuple[int, int] | None
    digest: bytes | None = None
    print: Words | None = None
    orientation: int = 1
    is_reduced: bool = False
    problem: str | None = None
    is_sound: bool = True


def look_at_all(paths: Sequence[Path], depth: Depth) -> Iterator[Look]:
    """A look at each file, in order. Threads suffice, since decoders release the interpreter's lock."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for start in range(0, len(paths), _AT_ONCE):
            chunk = paths[start : start + _AT_ONCE]
            yield from pool.map(look_at, chunk, [depth] * len(chunk))


def look_at(path: Path, depth: Depth) -> Look:
    """A look at one file: its header, a thumbnail (of a JPEG decoded at a reduced size), or all of its pixels."""
    try:
        if depth == "header":
            return Look(image_size(path), orientation=orientation(path))
        return _decoded(path, read_bytes(path), depth)
    except BadImage as error:
        return Look(error.size, problem=str(error), is_sound=isinstance(error, TooManyPixels))


def _decoded(path: Path, content: bytes, depth: Depth) -> Look:
    size = image_size(path, content)
    decoded = size
    if depth == "whole":
        pixels = decode(content, path)
        decoded = pixels.shape[:2]
    if depth == "whole" and decoded == size:
        thumbnail = shrunk(Image.fromarray(pixels), SIDE)
    else:
        thumbnail = grey_thumbnail(content, path, SIDE)
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return Look(size, digest, fingerprint(thumbnail), orientation(content), decoded != size)
