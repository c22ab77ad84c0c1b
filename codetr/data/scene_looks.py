"""Many classes for synthetic scenes: a silhouette in a colour, with a pattern and a mark that belong to the class.

The first hundred differ in silhouette and colour alone, which shows in the smallest objects; patterns come next, then
marks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from codetr.data.scene_shapes import SHAPES, Patch, Pose, Shape
from codetr.data.scene_textures import Floats, Range, colour

# Name: hue, saturation, value. Drawn from narrow ranges, far apart from each other.
_COLOURS: dict[str, tuple[Range, Range, Range]] = {
    "red": ((-0.01, 0.01), (0.85, 1.0), (0.75, 0.9)),
    "blue": ((0.61, 0.64), (0.8, 1.0), (0.7, 0.95)),
    "green": ((0.33, 0.37), (0.8, 1.0), (0.45, 0.65)),
    "yellow": ((0.145, 0.165), (0.85, 1.0), (0.9, 1.0)),
    "white": ((0.0, 1.0), (0.0, 0.04), (0.93, 1.0)),
    "black": ((0.0, 1.0), (0.0, 0.3), (0.05, 0.12)),
    "pink": ((0.9, 0.93), (0.4, 0.5), (0.95, 1.0)),
    "cyan": ((0.49, 0.51), (0.75, 0.95), (0.85, 1.0)),
    "orange": ((0.07, 0.085), (0.9, 1.0), (0.9, 1.0)),
    "violet": ((0.76, 0.78), (0.65, 0.8), (0.5, 0.65)),
}
_PATTERNS = {"": "", "striped": "stripes", "checked": "checks", "dotted": "dots"}
_MARKS = {"": "", "rimmed": "a rim", "halved": "another half", "banded": "a band"}
# The second colour of patterns and marks. Black is not checked with white, since white is checked with black.
_SECOND: dict[str, tuple[Range, Range, Range]] = {
    name: _COLOURS["white" if name in ("red", "blue", "green", "violet") else "red" if name == "black" else "black"]
    for name in _COLOURS
}


@dataclass(frozen=True)
class Look:
    """A class of objects. pattern, mark: keys of `_PATTERNS` and `_MARKS`; none is empty."""

    silhouette: str
    colour: str
    pattern: str
    mark: str

    @property
    def name(self) -> str:
        return "_".join(word for word in (self.colour, self.pattern, self.mark, self.silhouette) if word)

    @property
    def definition(self) -> str:
        details = " and ".join(text for text in (_PATTERNS[self.pattern], _MARKS[self.mark]) if text)
        return f"a {self.colour} {self.silhouette}" + (f" with {details}" if details else "")

    @property
    def shape(self) -> Shape:
        return SHAPES[self.silhouette]

    def paint(self, rng: Generator, patch: Patch, pose: Pose) -> Floats:
        """Its colours on a patch, (h, w, 3), of its own hand in every object."""
        main = colour(rng, *_COLOURS[self.colour])
        second = colour(rng, *_SECOND[self.colour])
        share = self._pattern(rng, patch, pose)
        if self.mark:
            share = np.where(self._marked(patch, pose), 1.0, share)
        painted: Floats = main + share[..., None].astype(np.float32) * (second - main)
        return painted

    def _pattern(self, rng: Generator, patch: Patch, pose: Pose) -> Floats:
        """Share of the second colour, (h, w)."""
        if not self.pattern:
            return np.zeros_like(patch.u)
        frequency = math.pi * min(3.0, pose.radius / 3.5)  # never finer than three and a half pixels a stripe
        turn, phase = rng.uniform(0.0, math.pi), rng.uniform(0.0, math.pi)
        a = frequency * (patch.u * math.cos(turn) + patch.v * math.sin(turn)) + phase
        b = frequency * (patch.v * math.cos(turn) - patch.u * math.sin(turn))
        value = {"striped": np.sin(a), "checked": np.sin(a) * np.sin(b), "dotted": np.cos(a) * np.cos(b) - 0.35}
        share: Floats = 0.5 + 0.5 * np.tanh(6.0 * value[self.pattern])
        return share

    def _marked(self, patch: Patch, pose: Pose) -> NDArray[np.bool_]:
        """True where the mark is, (h, w); every silhouette has something of each."""
        if self.mark == "rimmed":
            return np.asarray(-patch.distance < max(1.5, 0.16 * pose.radius))
        return np.asarray(patch.u > 0.0 if self.mark == "halved" else abs(patch.v) < 0.22)


def looks(number: int) -> list[Look]:
    """So many classes, always the same ones."""
    found = [
        Look(silhouette, paint, pattern, mark)
        for mark in _MARKS
        for pattern in _PATTERNS
        for paint in _COLOURS
        for silhouette in SHAPES
    ]
    return found[:number]


MOST = len(looks(10**9))
