"""Boxes and segmentations of an image as it is shown, in the pixels as they are stored. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from codetr.data.annotations import Entry


def turned_back(entry: Entry, orientation: int, size: tuple[int, int]) -> dict[str, Any]:
    """An annotation whose box and segmentation refer to the image that its EXIF orientation shows, in stored pixels.

    orientation: 5 to 8, those that exchange height and width. size: height and width of the stored image.
    """
    x, y, width, height = entry["bbox"]
    (x1, y1), (x2, y2) = (_point(px, py, orientation, size) for px, py in ((x, y), (x + width, y + height)))
    changed: dict[str, Any] = {**entry, "bbox": [min(x1, x2), min(y1, y2), height, width]}
    segment = entry.get("segmentation")
    if isinstance(segment, list):
        changed["segmentation"] = [_polygon(polygon, orientation, size) for polygon in segment]
    elif segment:
        changed["segmentation"] = _run_lengths(segment, orientation)
    return changed


def _point(x: float, y: float, orientation: int, size: tuple[int, int]) -> tuple[float, float]:
    height, width = size
    return {
        5: (y, x),
        6: (y, height - x),
        7: (width - y, height - x),
        8: (width - y, x),
    }[orientation]


def _polygon(values: Sequence[float], orientation: int, size: tuple[int, int]) -> list[float]:
    points = zip(values[0::2], values[1::2], strict=True)
    return [value for x, y in points for value in _point(x, y, orientation, size)]


def _run_lengths(segment: dict[str, Any], orientation: int) -> dict[str, Any]:
    from hotcoco import mask as run_length

    shown = run_length.decode(run_length.frPyObjects(segment, *segment["size"]))
    stored = {5: shown.T, 6: np.rot90(shown), 7: shown[::-1, ::-1].T, 8: np.rot90(shown, -1)}[orientation]
    code = run_length.encode(np.asfortranarray(stored))
    counts = code["counts"]
    return {"size": list(stored.shape), "counts": counts.decode() if isinstance(counts, bytes) else counts}
