"""The object classes of the synthetic scenes: ten silhouettes as distance functions.

Every shape is a function of local coordinates `(u, v)`, in which it fills about the unit disc; it is negative inside
and zero on the outline. The value is a true distance only for some shapes, so `rasterise` divides it by the length of
its gradient: near the outline, which is where antialiasing and bevels look, the result is a distance in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Shape = Callable[[Floats, Floats], Floats]


@dataclass(frozen=True)
class Pose:
    """Where and how a shape lies.

    x, y, radius: pixels. aspect: length over width, the area kept. angle: radians. wobble, phase: how much and where
    the outline is bent, in local coordinates and radians.
    """

    x: float
    y: float
    radius: float
    aspect: float = 1.0
    angle: float = 0.0
    wobble: float = 0.0
    phase: float = 0.0


@dataclass(frozen=True)
class Patch:
    """A shape on a pixel grid that may reach out of the picture.

    top, left: position of the first row and column in the picture. distance: (h, w) pixels, negative inside.
    u, v: (h, w) local coordinates, for textures.
    """

    top: int
    left: int
    distance: Floats
    u: Floats
    v: Floats

    def inside(self, height: int, width: int) -> tuple[Patch, tuple[slice, slice]]:
        """The part of the patch that lies in a picture, and the picture's rows and columns under it (maybe none)."""
        rows, columns = self.distance.shape
        top, left = max(self.top, 0), max(self.left, 0)
        bottom, right = max(top, min(self.top + rows, height)), max(left, min(self.left + columns, width))
        cut = (slice(top - self.top, bottom - self.top), slice(left - self.left, right - self.left))
        part = Patch(top, left, self.distance[cut], self.u[cut], self.v[cut])
        return part, (slice(top, bottom), slice(left, right))


def _disc(u: Floats, v: Floats) -> Floats:
    return np.hypot(u, v) - 0.92


def _square(u: Floats, v: Floats) -> Floats:
    return np.maximum(abs(u), abs(v)) - 0.76


def _ring(u: Floats, v: Floats) -> Floats:
    return abs(np.hypot(u, v) - 0.73) - 0.21


def _cross(u: Floats, v: Floats) -> Floats:
    long, short = np.maximum(abs(u), abs(v)), np.minimum(abs(u), abs(v))
    return np.maximum(long - 0.95, short - 0.3)


def _crescent(u: Floats, v: Floats) -> Floats:
    outer, inner = np.hypot(u, v) - 0.95, np.hypot(u - 0.48, v) - 0.76
    outline: Floats = np.maximum(outer, -inner)
    return outline


def _heart(u: Floats, v: Floats) -> Floats:
    """Two discs over a square that stands on its corner."""
    lobes = np.hypot(abs(u) - 0.45, v + 0.3) - 0.47
    tip = (abs(u) + abs(v + 0.02) - 0.9) * math.sqrt(0.5)
    outline: Floats = np.minimum(lobes, np.maximum(tip, -0.35 - v))
    return outline


def _gear(u: Floats, v: Floats) -> Floats:
    """Eight teeth around a wheel with a hole."""
    length, angle = np.hypot(u, v), np.arctan2(v, u)
    rim = length - (0.8 + 0.16 * np.tanh(4.0 * np.cos(8.0 * angle)))
    outline: Floats = np.maximum(rim, 0.3 - length)
    return outline


def _polygon(*corners: tuple[float, float]) -> Shape:
    """The exact distance to a simple polygon."""

    def distance(u: Floats, v: Floats) -> Floats:
        nearest = np.full_like(u, np.inf)
        crossings = np.zeros(u.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
            ex, ey = bx - ax, by - ay
            along = np.clip(((u - ax) * ex + (v - ay) * ey) / (ex * ex + ey * ey), 0.0, 1.0)
            nearest = np.minimum(nearest, np.hypot(u - ax - along * ex, v - ay - along * ey))
            if ey:
                crossings ^= ((ay > v) != (by > v)) & (u < ex * (v - ay) / ey + ax)
        return np.where(crossings, -nearest, nearest)

    return distance


def _star_corners(points: int, outer: float, inner: float) -> list[tuple[float, float]]:
    turns = [(i * math.pi / points - math.pi / 2, outer if i % 2 == 0 else inner) for i in range(2 * points)]
    return [(radius * math.cos(turn), radius * math.sin(turn)) for turn, radius in turns]


# Commonest class first: the order is that of the long tail, and of the category ids.
SHAPES: dict[str, Shape] = {
    "disc": _disc,
    "square": _square,
    "triangle": _polygon((0.0, -0.98), (0.9, 0.62), (-0.9, 0.62)),
    "ring": _ring,
    "star": _polygon(*_star_corners(5, 1.05, 0.46)),
    "cross": _cross,
    "crescent": _crescent,
    "arrow": _polygon((1.05, 0.0), (0.15, -0.8), (0.15, -0.3), (-0.95, -0.3), (-0.95, 0.3), (0.15, 0.3), (0.15, 0.8)),
    "heart": _heart,
    "gear": _gear,
}
CLASSES: tuple[str, ...] = tuple(SHAPES)


def blob(phases: NDArray[np.float64]) -> Shape:
    """A lobed, amoeba-like outline that is none of the classes. phases: (3,) radians."""

    def distance(u: Floats, v: Floats) -> Floats:
        length, angle = np.hypot(u, v), np.arctan2(v, u)
        outline = np.full_like(angle, 0.72)
        # Towards the centre, where all angles meet, the lobes fade, or the distance would jump there.
        fade = np.clip(length / 0.4, 0.0, 1.0)
        for lobes, weight, phase in zip((2, 3, 5), (0.2, 0.2, 0.1), phases, strict=True):
            outline += weight * fade * np.cos(lobes * angle + phase)
        return length - outline

    return distance


def rasterise(shape: Shape, pose: Pose, *, margin: float = 0.0) -> Patch:
    """A shape on the pixels around its pose; `margin` more pixels on each side make room for a shadow."""
    reach = math.ceil(1.15 * pose.radius * math.sqrt(max(pose.aspect, 1.0 / pose.aspect)) + 2.0 + margin)
    top, left = round(pose.y) - reach, round(pose.x) - reach
    offsets = np.arange(2 * reach + 1, dtype=np.float32) + 0.5
    x, y = offsets[None, :] + np.float32(left - pose.x), offsets[:, None] + np.float32(top - pose.y)
    cos, sin = np.float32(math.cos(pose.angle)), np.float32(math.sin(pose.angle))
    stretch = np.float32(math.sqrt(pose.aspect))
    u = (x * cos + y * sin) / (np.float32(pose.radius) * stretch)
    v = (y * cos - x * sin) * stretch / np.float32(pose.radius)
    bend = np.float32(pose.wobble)
    value = shape(u + bend * np.sin(3.0 * v + pose.phase), v + bend * np.sin(3.0 * u + 2.0 * pose.phase))
    slope_y, slope_x = np.gradient(value)
    # Where ridges of the distance meet, the slope vanishes; a floor keeps the quotient finite there.
    steepness = np.maximum(np.hypot(slope_x, slope_y), 0.35 / pose.radius)
    return Patch(top, left, (value / steepness).astype(np.float32), u, v)
