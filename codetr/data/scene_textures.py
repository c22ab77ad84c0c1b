"""Noise, backgrounds and surface patterns of the synthetic scenes. Colours are float32 RGB in (0, 1)."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.spatial import cKDTree

Floats = NDArray[np.floating[Any]]

_GROUNDS = (0.05, 0.09, 0.12, 0.22, 0.33, 0.5, 0.58, 0.64, 0.8)  # hues, from earth by moss to sea and heather


Range = tuple[float, float]


def colour(rng: Generator, hues: Range, saturation: Range, value: Range) -> Floats:
    """One colour, (3,), drawn from ranges of hue, saturation and value."""
    rgb = colorsys.hsv_to_rgb(rng.uniform(*hues) % 1.0, rng.uniform(*saturation), rng.uniform(*value))
    return np.asarray(rgb, dtype=np.float32)


def noise(rng: Generator, size: int, *, cell: float, octaves: int, stretch: float = 1.0) -> Floats:
    """Smooth noise in (0, 1), (size, size): octaves of random grids, each half as coarse and half as strong.

    cell: pixels between the grid points of the first octave; `stretch` times as many along the rows.
    """
    total = np.zeros((size, size), dtype=np.float32)
    for octave in range(octaves):
        step = cell / 2**octave
        if octave and step < 1.0:
            break
        rows, columns = math.ceil(size / step) + 3, math.ceil(size / (step * stretch)) + 3
        grid = Image.fromarray(rng.random((rows, columns), dtype=np.float32))
        left, top = rng.random(2)
        box = (left, top, left + size / (step * stretch), top + size / step)
        total += 0.5**octave * np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC, box=box))
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def ramp(value: Floats, colours: Floats) -> Floats:
    """Values in (0, 1), (h, w), to colours along a ramp of (n, 3), n >= 2: (h, w, 3)."""
    stops = np.linspace(0.0, 1.0, len(colours))
    return np.stack([np.interp(value, stops, channel) for channel in colours.T], axis=-1).astype(np.float32)


def _turned(size: int, angle: float) -> tuple[Floats, Floats]:
    """Pixel coordinates along and across a direction."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _ground(rng: Generator, count: int) -> Floats:
    """Related, mostly dull colours for a background, dark to light: (count, 3)."""
    hue, vivid = rng.choice(_GROUNDS), rng.uniform(0.05, 0.5)
    middle = rng.uniform(0.35, 0.8)
    values = np.linspace(middle - 0.18, middle + 0.2, count)
    stops = [((hue - 0.05, hue + 0.05), (0.7 * vivid, vivid), (value - 0.04, value + 0.04)) for value in values]
    return np.stack([colour(rng, *stop) for stop in stops])


def _earth(rng: Generator, size: int) -> Floats:
    value = noise(rng, size, cell=size / rng.uniform(1.5, 5.0), octaves=6)
    return ramp(value, _ground(rng, 4))


def _sky(rng: Generator, size: int) -> Floats:
    along, _ = _turned(size, rng.uniform(0.0, 2.0 * math.pi))
    gradient = (along - along.min()) / max(float(np.ptp(along)), 1e-6)
    return ramp(0.7 * gradient + 0.3 * noise(rng, size, cell=size / 2, octaves=4), _ground(rng, 3))


def _wood(rng: Generator, size: int) -> Floats:
    along, across = _turned(size, rng.choice([0.0, math.pi / 2]) + rng.normal(0.0, 0.15))
    bend = noise(rng, size, cell=size / 2, octaves=2)
    period = size * rng.uniform(0.05, 0.12)
    rings = 0.5 + 0.5 * np.sin(2.0 * math.pi * (across + 0.01 * along + period * 2.5 * bend) / period)
    grain = noise(rng, size, cell=max(3.0, size / 80.0), octaves=3, stretch=5.0)
    return ramp(0.25 + 0.3 * rings + 0.35 * grain, _ground(rng, 3))


def _cloth(rng: Generator, size: int) -> Floats:
    along, across = _turned(size, rng.uniform(0.0, math.pi))
    thread = 2.0 * math.pi / (rng.uniform(3.0, 5.0) * max(1.0, size / 256.0))
    weave = 0.25 * np.sin(thread * along) * np.sin(thread * across)
    band = size * rng.uniform(0.15, 0.4)
    checks = 0.18 * (np.sin(2.0 * math.pi * along / band) + np.sin(2.0 * math.pi * across / band))
    folds = noise(rng, size, cell=size / 2, octaves=2) - 0.5
    return ramp(np.clip(0.5 + weave + checks * rng.random() + 0.4 * folds, 0.0, 1.0), _ground(rng, 3))


def _gravel(rng: Generator, size: int) -> Floats:
    step = rng.uniform(7.0, 16.0) * max(1.0, size / 320.0)
    centres = rng.uniform(-step, size + step, (round((size / step + 2.0) ** 2), 2))
    pixels = np.indices((size, size)).reshape(2, -1).T
    found = cKDTree(centres).query(pixels, k=2)
    distances, owners = np.asarray(found[0]), np.asarray(found[1])
    joint = np.clip((distances[:, 1] - distances[:, 0]) / (0.35 * step), 0.0, 1.0).reshape(size, size)
    stone = rng.random(len(centres))[owners[:, 0]].reshape(size, size)
    shade = (0.15 + 0.55 * stone + 0.3 * noise(rng, size, cell=4.0, octaves=2)) * (0.35 + 0.65 * joint)
    return ramp(shade.astype(np.float32), _ground(rng, 4))


def _meadow(rng: Generator, size: int) -> Floats:
    blades = _ground(rng, 8)
    picture = ramp(noise(rng, size, cell=size / 3, octaves=4), blades[:4])
    lean = rng.uniform(0.0, 2.0 * math.pi)
    length = size * rng.uniform(0.06, 0.14)
    strokes: list[Stroke] = []
    for _ in range(rng.integers(250, 450)):
        direction, reach = lean + rng.normal(0.0, 0.4), length * rng.uniform(0.5, 1.5)
        strokes.append((rng.uniform(-length, size, 2), direction, reach, blades[rng.integers(8)]))
    return draw_strokes(picture, strokes, width=size / 190.0, curl=0.0, rng=rng)


BACKGROUNDS: tuple[Callable[[Generator, int], Floats], ...] = (_earth, _sky, _wood, _cloth, _gravel, _meadow)


def background(rng: Generator, size: int) -> Floats:
    """One of the grounds, (size, size, 3), with fine grain."""
    picture = BACKGROUNDS[rng.integers(len(BACKGROUNDS))](rng, size)
    grain = noise(rng, size, cell=2.0, octaves=1) - 0.5
    return picture + rng.uniform(0.0, 0.08) * grain[..., None]


Stroke = tuple[NDArray[np.float64], float, float, Floats]


def draw_strokes(picture: Floats, strokes: list[Stroke], *, width: float, curl: float, rng: Generator) -> Floats:
    """A picture with brush strokes on it. A stroke: start (x, y), direction, length in pixels, colour.

    width: pixels. curl: radians that a stroke turns at each of its 24 joints, at most; 0 draws straight ones.
    """
    size = picture.shape[0]
    ink = Image.new("RGB", (2 * size, 2 * size))
    cover = Image.new("L", ink.size)
    pens = ImageDraw.Draw(ink), ImageDraw.Draw(cover)
    for start, direction, length, paint in strokes:
        steps = 2 if curl == 0.0 else 24
        turns = direction + np.cumsum(rng.uniform(-curl, curl, steps)) if curl else np.full(steps, direction)
        path = start + np.cumsum(np.stack([np.cos(turns), np.sin(turns)], axis=1) * (length / steps), axis=0)
        points = [(2.0 * x, 2.0 * y) for x, y in path]
        pixels = max(1, round(2.0 * width * rng.uniform(0.6, 1.5)))
        red, green, blue = (round(255 * float(c)) for c in np.clip(paint, 0.0, 1.0))
        pens[0].line(points, fill=(red, green, blue), width=pixels + 2, joint="curve")
        pens[1].line(points, fill=255, width=pixels, joint="curve")
    small = (size, size)
    alpha = np.asarray(cover.resize(small, Image.Resampling.BOX), dtype=np.float32)[..., None] / 255.0
    return picture + alpha * (np.asarray(ink.resize(small, Image.Resampling.BOX), dtype=np.float32) / 255.0 - picture)


def pattern(rng: Generator, u: Floats, v: Floats, *, pixels: float) -> Floats:
    """A surface pattern in (0, 1) over local coordinates, (h, w).

    pixels: length of one unit of `u` in the picture; patterns finer than it can show fade to plain ones.
    """
    kind = rng.integers(6)
    frequency = min(rng.uniform(2.0, 5.0), pixels / 5.0)
    turn = rng.uniform(0.0, math.pi)
    a, b = u * math.cos(turn) + v * math.sin(turn), v * math.cos(turn) - u * math.sin(turn)
    phase = 2.0 * math.pi * rng.random()
    if kind == 0 or pixels < 7.0:
        value = 0.5 + 0.25 * a
    elif kind == 1:
        value = 0.5 + 0.5 * np.tanh(3.0 * np.sin(math.pi * frequency * a + phase))
    elif kind == 2:
        value = 0.5 + 0.5 * np.tanh(6.0 * np.sin(math.pi * frequency * a) * np.sin(math.pi * frequency * b))
    elif kind == 3:
        dots = np.cos(math.pi * frequency * a) * np.cos(math.pi * frequency * b)
        value = 0.5 + 0.5 * np.tanh(6.0 * (dots - 0.3))
    elif kind == 4:
        swirl = np.sin(2.0 * a + phase) + np.sin(3.1 * b - phase) + np.sin(2.3 * (a + b))
        value = 0.5 + 0.5 * np.sin(frequency * 0.8 * swirl + 3.0 * a)
    else:
        value = 0.5 + 0.5 * np.sin(1.5 * a + phase)
    return np.asarray(value, dtype=np.float32)
