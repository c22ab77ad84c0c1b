"""Boxes that are not [x, y, width, height] in pixels, told by all boxes of a file together. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from codetr.data.annotations import ROUNDING

Form = Literal["coco", "corners", "relative"]

_FEWEST = 5  # boxes that prove anything about corners
_SLACK = 1e-3  # shares are written with a few decimals
_CROSSING = 0.2  # share of boxes that leave their image; in real files, those are a few in a hundred


def form_of(boxes: ArrayLike, sizes: ArrayLike, areas: Iterable[object] = ()) -> Form:
    """What the boxes of a file most probably are: COCO's, corners [x1, y1, x2, y2], or shares of the image.

    boxes: (N, 4) as they stand in the file. sizes: (N, 2), height and width of the image of each. areas: what the file
    states for each box, of its pixels or its mask.
    Corners: every box would be one, in its image, and many leave it when they are read as COCO's. Stated areas that are
    the product of the last two numbers refute it. Relative: no number exceeds 1.
    """
    rows, limits = np.asarray(boxes, dtype=float).reshape(-1, 4), np.asarray(sizes, dtype=float).reshape(-1, 2)[:, ::-1]
    if not len(rows):
        return "coco"
    start, end = rows[:, :2], rows[:, 2:]
    if rows.min() >= 0 and rows.max() <= 1 and limits.min() > 2 and not np.isin(rows, (0, 1)).all():
        return "relative"
    crossing = (start + end > limits + ROUNDING).any(axis=1)
    as_corners = (end > start).all(axis=1) & (start >= -ROUNDING).all(axis=1) & (end <= limits + ROUNDING).all(axis=1)
    if len(rows) < _FEWEST or not as_corners.all() or crossing.mean() < _CROSSING:
        return "coco"
    pairs = zip(areas, end.prod(axis=1).tolist(), strict=False)
    stated = [(area, product) for area, product in pairs if isinstance(area, int | float) and area]
    agreeing = sum(abs(area - product) <= 0.01 * product for area, product in stated)
    return "coco" if stated and agreeing > len(stated) / 2 else "corners"


def relative_boxes(boxes: ArrayLike) -> Literal["corner and size", "centre and size"] | None:
    """What the numbers of relative boxes, (N, 4), are: [x, y, w, h] or [cx, cy, w, h]; None if they can be neither."""
    rows = np.asarray(boxes, dtype=float).reshape(-1, 4)
    if (rows[:, :2] + rows[:, 2:] <= 1 + _SLACK).all():
        return "corner and size"
    half = rows[:, 2:] / 2
    inside = (rows[:, :2] - half >= -_SLACK) & (rows[:, :2] + half <= 1 + _SLACK)
    return "centre and size" if inside.all() else None
