"""What a segmentation of a COCO file must be, and how one is turned with its image. Imports no torch."""

from __future__ import annotations

import math
from typing import Any


def segment_flaw(segment: Any, size: tuple[int, int] | None) -> str | None:
    """What makes a segmentation undecodable in an image of `size` (h, w; null: not known), or None.

    Polygons [[x1, y1, x2, y2, x3, y3, ...], ...] or run lengths {"size": [h, w], "counts": text or list}.
    """
    if isinstance(segment, list):
        return _polygons_flaw(segment)
    if not isinstance(segment, dict):
        return f"it must be a list of polygons or run lengths, found {_short(segment)}"
    stated, counts = segment.get("size"), segment.get("counts")
    if not isinstance(stated, list) or len(stated) != 2 or not all(type(side) is int and side > 0 for side in stated):
        return f"run lengths need 'size', [height, width], found {_short(stated)}"
    if size is not None and tuple(stated) != size:
        return f"it is of {stated[0]} x {stated[1]} pixels in an image of {size[0]} x {size[1]}, height x width"
    if isinstance(counts, list):
        if not all(type(count) is int and count >= 0 for count in counts):
            return "the run lengths must be integers of at least 0"
        total, pixels = sum(counts), stated[0] * stated[1]
        return None if total == pixels else f"its run lengths add up to {total} pixels, not to {pixels}"
    if isinstance(counts, str):
        return _text_flaw(counts, stated[0] * stated[1])
    return f"run lengths need 'counts', a text or a list of integers, found {_short(counts)}"


def _polygons_flaw(polygons: list[Any]) -> str | None:
    if not polygons:
        return "it has no polygon"
    for polygon in polygons:
        if not isinstance(polygon, list):
            return f"a polygon must be a list [x1, y1, x2, y2, ...], found {_short(polygon)}"
        if not all(type(value) in (int, float) and math.isfinite(value) for value in polygon):
            return "a polygon holds something other than finite numbers"
        if len(polygon) % 2:
            return f"a polygon has an odd number of values ({len(polygon)}); x and y come in pairs"
        if len(polygon) < 6:
            return f"a polygon has {len(polygon) // 2} points; it needs at least 3"
    return None


def _text_flaw(counts: str, pixels: int) -> str | None:
    """Checks compressed run lengths: groups of five bits, low ones first, each a difference from two runs before."""
    runs: list[int] = []
    value = shift = 0
    for letter in counts:
        code = ord(letter) - 48
        if not 0 <= code < 64:
            return f"its compressed run lengths hold {letter!r}"
        value |= (code & 0x1F) << shift
        shift += 5
        if not code & 0x20:
            if code & 0x10:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift or any(run < 0 for run in runs):
        return "its compressed run lengths are broken off or damaged"
    return None if sum(runs) == pixels else f"its run lengths add up to {sum(runs)} pixels, not to {pixels}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
