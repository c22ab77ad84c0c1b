"""One line of a YOLO label file: a class number, then a box or the corners of a polygon."""

from __future__ import annotations

import math
from dataclasses import dataclass

FAR_OUT = 1.5  # a value above it is no overhang but a pixel coordinate


@dataclass(frozen=True)
class Shape:
    """label: class number from 0. points: corners in 0..1 of the picture, two opposite ones of a box."""

    label: int
    points: tuple[tuple[float, float], ...]
    is_polygon: bool


def parse_line(line: str, *, classes: int, is_pose: bool = False) -> Shape | str:
    """The object of a line, or what is wrong with it.

    Five numbers are a box (class, centre x, centre y, width, height); seven or more, an odd number of them, a polygon.
    is_pose: key points follow the box, and are left out.
    """
    words = line.split()
    try:
        values = [float(word) for word in words]
    except ValueError:
        return f"numbers are expected, found {line.strip()[:40]!r}"
    count = len(values)
    if count != 5 and not is_pose and (count < 7 or count % 2 == 0):
        return f"a box has 5 numbers and a polygon 7 or more, an odd number of them; found {count}"
    if count < 5:
        return f"a box has 5 numbers, found {count}"
    if not all(math.isfinite(value) for value in values):
        return "a value is not finite"
    label = values[0]
    if label != int(label) or not 0 <= label < classes:
        return f"class {words[0]} is not among the {classes} classes, which are numbered from 0"
    numbers = values[1:5] if is_pose else values[1:]
    worst = max(numbers, key=abs)
    if abs(worst) > FAR_OUT:
        return f"coordinates are normalised by the size of the image, 0 to 1; found {worst:g}"
    if is_pose or count == 5:
        x, y, width, height = numbers
        corners = ((x - width / 2, y - height / 2), (x + width / 2, y + height / 2))
        return Shape(int(label), corners, False)
    return Shape(int(label), tuple(zip(numbers[::2], numbers[1::2], strict=True)), True)
