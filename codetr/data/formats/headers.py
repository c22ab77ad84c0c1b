"""Sizes and orientations of many image files, read from their headers once and remembered.

A million headers take minutes, on network storage hours. What was read is kept in the user's cache folder
($XDG_CACHE_HOME, else ~/.cache), one JSON file for each image folder, and holds as long as a file keeps its length and
its time of change.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codetr.data.images import BadImage, image_size, orientation

THREADS = 16  # they wait for the storage, not for a core
REMEMBERED_FROM = 1000  # images; fewer are read faster than anyone notices


@dataclass(frozen=True)
class Header:
    """Height and width as stored, and the EXIF orientation, 1 to 8."""

    height: int
    width: int
    orientation: int


def read_headers(folder: Path, names: Sequence[str]) -> list[Header | None]:
    """The headers of files in a folder; None for one that is absent or no image."""
    cache = _cache_file(folder) if len(names) >= REMEMBERED_FROM else None
    known = _load(cache) if cache is not None else {}
    with ThreadPoolExecutor(max_workers=THREADS) as pool:
        rows = list(pool.map(lambda name: _row(folder / name, known.get(name)), names))
    found = {name: row for name, row in zip(names, rows, strict=True) if row is not None}
    if cache is not None and any(known.get(name) != row for name, row in found.items()):
        _save(cache, {**known, **found})  # other splits of the same folder keep theirs
    return [None if row is None else Header(*row[2:]) for row in rows]


def _row(path: Path, known: Any) -> list[int] | None:
    """Bytes, time of change, height, width, orientation."""
    try:
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        if _is_row(known) and known[:2] == stamp:
            return list(known)
        return [*stamp, *image_size(path), orientation(path)]
    except (OSError, BadImage):  # the data set says so when the image is to be used
        return None


def _is_row(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 5 and all(type(number) is int for number in value)


def _cache_file(folder: Path) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    key = hashlib.sha256(os.path.realpath(folder).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return Path(base, "codetr", "headers", f"{key}.json")


def _load(cache: Path) -> dict[str, Any]:
    try:
        content = json.loads(cache.read_bytes())
    except (OSError, ValueError):  # absent or cut short: read the images again
        return {}
    return content if isinstance(content, dict) else {}


def _save(cache: Path, rows: dict[str, list[int]]) -> None:
    part = cache.with_suffix(f".{os.getpid()}.part")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(rows), encoding="utf-8")
        os.replace(part, cache)  # whole or not at all, whichever process comes last
    except OSError:  # a home that cannot be written costs time, nothing else
        with suppress(OSError):
            part.unlink()
