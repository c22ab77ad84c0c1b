"""One synthetic scene: what lies where, what of it can be seen, and how it is painted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import binary_closing, gaussian_filter

from codetr.data.scene_looks import Look
from codetr.data.scene_shapes import CLASSES, SHAPES, Patch, Pose, Shape, blob, rasterise
from codetr.data.scene_textures import Floats, background, colour, draw_strokes, pattern, ramp

Mask = NDArray[np.bool_]

_TAIL = 0.8  # frequency of the n-th class is n ** -0.8: the rarest of ten is 6.3 times rarer than the commonest
_RADII = (4.0, 0.3)  # smallest radius in pixels, largest as a share of the picture's side
_MIDDLING = (1.5, 1.3)  # Beta distribution of the logarithm of the radius between those: fewer tiny ones than middling
_SMALLEST_LOOK = 0.07  # smallest radius as a share of the side where colours and patterns have to show
_EMPTY = 0.02  # share of pictures without objects
_TOUCHING = 0.35  # share of objects that are laid onto another one
_VISIBLE_SHARE, _VISIBLE_PIXELS, _VISIBLE_SIDE = 0.4, 20, 4  # an object that shows less than any of these is left out


@dataclass(frozen=True)
class SceneObject:
    """An annotated object.

    label: index into `CLASSES`, or into the looks of the scene's cast. mask: (H, W) bool, its visible part, not empty.
    """

    label: int
    mask: Mask
    crowd: bool


@dataclass(frozen=True)
class Scene:
    """pixels: (H, W, 3) uint8 RGB. objects: the lowest first."""

    pixels: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True)
class _Layer:
    """Something laid on the table: one object, or all of a crowd. look: None for any colours."""

    label: int
    poses: tuple[Pose, ...]
    crowd: bool = False
    look: Look | None = None

    @property
    def shape(self) -> Shape:
        return SHAPES[CLASSES[self.label]] if self.look is None else self.look.shape


@dataclass(frozen=True)
class Cast:
    """What a scene is to show: labels, each once for each object, as indices into `looks`."""

    labels: Sequence[int]
    looks: Sequence[Look]


@dataclass(frozen=True)
class _Light:
    """The scene's one light.

    x, y: unit vector in the picture towards it. length, softness: of shadows, in pixels. depth: how dark they are.
    """

    x: float
    y: float
    length: float
    softness: float
    depth: float


def compose(
    rng: Generator, size: int, *, objects: tuple[int, int], clutter: float, crowd: bool, cast: Cast | None = None
) -> Scene:
    """Lays out and paints one square scene.

    size: side in pixels. objects: least and most objects before hidden ones are left out. clutter: amount of strokes
    and blobs that are no objects, 1 is normal. crowd: whether to add a dense cluster of tiny objects of one class,
    annotated as one region. cast: its objects, in place of a number of objects of `CLASSES`.
    """
    layers, seen = _visible(_lay_out(rng, size, objects, crowd, cast), size)
    turn = rng.uniform(0.0, 2.0 * math.pi)
    scale = size**0.5 / 128**0.5
    light = _Light(
        math.cos(turn),
        math.sin(turn),
        rng.uniform(1.0, 3.0) * scale,
        rng.uniform(0.7, 2.2) * scale,
        rng.uniform(0.25, 0.6),
    )
    picture = _clutter(rng, background(rng, size), light, clutter)
    for layer in layers:
        _paint_layer(rng, picture, layer, light)
    pixels = _photograph(rng, picture, light)
    return Scene(pixels, tuple(SceneObject(k.label, mask, k.crowd) for k, mask in zip(layers, seen, strict=True)))


def _labels(rng: Generator, count: int) -> list[int]:
    weights = np.arange(1, len(CLASSES) + 1) ** -_TAIL
    return [int(k) for k in rng.choice(len(CLASSES), count, p=weights / weights.sum())]


def _lay_out(
    rng: Generator, size: int, objects: tuple[int, int], crowd: bool, cast: Cast | None = None
) -> list[_Layer]:
    """Layers, the lowest first: mostly the larger ones, so that small objects lie on large ones."""
    if cast is None:
        count, smallest = 0 if rng.random() < _EMPTY else int(rng.integers(objects[0], objects[1] + 1)), _RADII[0]
    else:
        count, smallest = len(cast.labels), max(_RADII[0], _SMALLEST_LOOK * size)
    placed: list[Pose] = []
    for _ in range(count):
        low, high = smallest, max(smallest, _RADII[1] * size)
        radius = low * (high / low) ** rng.beta(*_MIDDLING)
        x, y = _place(rng, size, radius, placed)
        placed.append(
            Pose(
                x,
                y,
                radius,
                aspect=math.exp(rng.normal(0.0, 0.18)),
                angle=rng.uniform(0.0, 2.0 * math.pi),
                wobble=rng.uniform(0.0, 0.05),
                phase=rng.uniform(0.0, 2.0 * math.pi),
            )
        )
    labels = _labels(rng, count) if cast is None else cast.labels
    layers = [
        _Layer(label, (pose,), look=None if cast is None else cast.looks[label])
        for label, pose in zip(labels, placed, strict=True)
    ]
    order = np.argsort([-pose.radius * rng.uniform(0.6, 1.6) for pose in placed])
    ordered = [layers[i] for i in order]
    if crowd:
        ordered.insert(int(rng.integers(len(ordered) + 1)), _crowd_layer(rng, size))
    return ordered


def _place(rng: Generator, size: int, radius: float, others: list[Pose]) -> tuple[float, float]:
    """A centre: beside another object, or the freest of a few random places; the picture may cut off a little."""
    edge = min(0.75 * radius, 0.45 * size)
    if others and rng.random() < _TOUCHING:
        other = others[rng.integers(len(others))]
        turn, reach = rng.uniform(0.0, 2.0 * math.pi), rng.uniform(0.5, 1.0) * (radius + other.radius)
        x, y = other.x + reach * math.cos(turn), other.y + reach * math.sin(turn)
        return float(np.clip(x, edge, size - edge)), float(np.clip(y, edge, size - edge))
    tries = rng.uniform(edge, size - edge, (6, 2))
    gaps = [min((math.hypot(x - o.x, y - o.y) - radius - o.radius for o in others), default=0.0) for x, y in tries]
    x, y = tries[int(np.argmax(np.minimum(gaps, 2.0)))]
    return float(x), float(y)


def _crowd_layer(rng: Generator, size: int) -> _Layer:
    """A dense cluster of 14 to 30 tiny objects of one class in an ellipse."""
    count, radius = int(rng.integers(14, 31)), rng.uniform(2.4, 3.4) * max(1.0, (size / 320.0) ** 0.5)
    spread = 1.15 * radius * math.sqrt(count)
    x, y = rng.uniform(min(spread, 0.4 * size), size - min(spread, 0.4 * size), 2)
    turn, flat = rng.uniform(0.0, math.pi), rng.uniform(0.6, 1.0)
    poses = []
    for i in range(count):
        # A sunflower's arrangement is even, yet nowhere a grid.
        along, angle = spread * math.sqrt((i + 0.5) / count), 2.39996 * i
        a, b = along * math.cos(angle), flat * along * math.sin(angle)
        jitter = rng.normal(0.0, 0.25 * radius, 2)
        poses.append(
            Pose(
                x + a * math.cos(turn) - b * math.sin(turn) + jitter[0],
                y + a * math.sin(turn) + b * math.cos(turn) + jitter[1],
                radius * rng.uniform(0.8, 1.2),
                angle=rng.uniform(0.0, 2.0 * math.pi),
            )
        )
    return _Layer(_labels(rng, 1)[0], tuple(poses), crowd=True)


def _visible(layers: list[_Layer], size: int) -> tuple[list[_Layer], list[Mask]]:
    """The layers that show enough, and their visible masks; the others are left out of the scene altogether.

    From the top down, so that what is left out hides nothing, and one pass suffices.
    """
    hidden = np.zeros((size, size), dtype=bool)
    kept: list[_Layer] = []
    masks: list[Mask] = []
    for layer in reversed(layers):
        mask, total = _silhouette(layer, size)
        shown = mask & ~hidden
        area = int(shown.sum())
        if area < max(_VISIBLE_PIXELS, _VISIBLE_SHARE * total):
            continue
        if min(int(shown.any(axis=0).sum()), int(shown.any(axis=1).sum())) < _VISIBLE_SIDE:
            continue
        kept.append(layer)
        masks.append(shown)
        hidden |= mask
    return kept[::-1], masks[::-1]


def _silhouette(layer: _Layer, size: int) -> tuple[Mask, int]:
    """A layer's mask in the picture, nothing above it, and its area with what reaches out of the picture."""
    mask = np.zeros((size, size), dtype=bool)
    total = 0
    for pose in layer.poses:
        patch = rasterise(layer.shape, pose)
        total += int((patch.distance <= 0.0).sum())
        part, where = patch.inside(size, size)
        mask[where] |= part.distance <= 0.0
    if layer.crowd:
        gap = math.ceil(layer.poses[0].radius)
        mask = binary_closing(np.pad(mask, gap), iterations=gap)[gap:-gap, gap:-gap]
        total = int(mask.sum())
    return mask, total


def _clutter(rng: Generator, picture: Floats, light: _Light, amount: float) -> Floats:
    """Brush strokes and amoeba-like blobs, which are no objects."""
    size = picture.shape[0]
    paints = np.stack([colour(rng, (0.0, 1.0), (0.0, 0.6), (0.15, 0.9)) for _ in range(4)])
    strokes = [
        (
            rng.uniform(-0.1 * size, 1.1 * size, 2),
            rng.uniform(0.0, 2.0 * math.pi),
            size * rng.uniform(0.08, 0.5),
            paints[rng.integers(4)],
        )
        for _ in range(rng.poisson(5.0 * amount))
    ]
    if strokes:
        picture = draw_strokes(picture, strokes, width=rng.uniform(0.6, 1.8) * size / 128.0, curl=0.35, rng=rng)
    for _ in range(rng.poisson(1.5 * amount)):
        radius = size * math.exp(rng.uniform(math.log(0.03), math.log(0.2)))
        x, y = rng.uniform(0.0, size, 2)
        pose = Pose(x, y, radius, math.exp(rng.normal(0.0, 0.3)), rng.uniform(0.0, 6.3), 0.05)
        _paint(rng, picture, blob(rng.uniform(0.0, 6.3, 3)), pose, light, colours=_colours(rng, None))
    return picture


def _paint_layer(rng: Generator, picture: Floats, layer: _Layer, light: _Light) -> None:
    size = picture.shape[0]
    lead = layer.poses[0]
    rows = slice(max(0, int(lead.y - lead.radius)), min(size, int(lead.y + lead.radius) + 2))
    columns = slice(max(0, int(lead.x - lead.radius)), min(size, int(lead.x + lead.radius) + 2))
    colours = _colours(rng, picture[rows, columns].mean(axis=(0, 1)))
    for pose in layer.poses:
        shade = np.float32(rng.uniform(0.9, 1.1))
        _paint(rng, picture, layer.shape, pose, light, colours=colours * shade, look=layer.look)


def _colours(rng: Generator, under: Floats | None) -> Floats:
    """Two colours of a surface, (2, 3), of any hue, at least one of them unlike what lies under it."""
    best, contrast = np.zeros((2, 3), dtype=np.float32), -1.0
    for _ in range(8):
        first = colour(rng, (0.0, 1.0), (0.15, 0.95), (0.25, 1.0))
        other = colour(rng, (0.0, 1.0), (0.1, 0.9), (0.2, 1.0))
        second = first + np.float32(rng.uniform(0.35, 0.9)) * (other - first)
        found = 1.0 if under is None else float(abs((first + second) / 2.0 - under).mean())
        if found > contrast:
            best, contrast = np.stack([first, second]), found
        if contrast > 0.2:
            break
    return best


def _paint(
    rng: Generator,
    picture: Floats,
    shape: Shape,
    pose: Pose,
    light: _Light,
    *,
    colours: Floats,
    look: Look | None = None,
) -> None:
    """Paints one surface with its shadow into the picture, in place. colours: not those of a look."""
    size = picture.shape[0]
    softness = min(light.softness, 0.5 * pose.radius)
    patch = rasterise(shape, pose, margin=light.length + 2.0 * softness)
    alpha = np.clip(0.5 - patch.distance, 0.0, 1.0)
    part, where = patch.inside(size, size)
    if not part.distance.size:
        return
    shift = (round(-light.y * light.length), round(-light.x * light.length))
    shadow = gaussian_filter(np.roll(alpha, shift, axis=(0, 1)), softness)
    rows, columns = part.distance.shape
    top, left = part.top - patch.top, part.left - patch.left
    cut = (slice(top, top + rows), slice(left, left + columns))
    if look is None:
        paint = ramp(pattern(rng, patch.u, patch.v, pixels=pose.radius), colours)
    else:
        paint = look.paint(rng, patch, pose)
    surface = _surface(rng, patch, pose, light, paint)
    under = picture[where] * (1.0 - light.depth * shadow[cut])[..., None]
    cover = alpha[cut][..., None]
    picture[where] = under + cover * (surface[cut] - under)


def _surface(rng: Generator, patch: Patch, pose: Pose, light: _Light, paint: Floats) -> Floats:
    """A painted surface with grain, relief under the scene's light, gloss and outline: (h, w, 3)."""
    grain = gaussian_filter(rng.standard_normal(paint.shape[:2], dtype=np.float32), 0.7)
    paint *= (1.0 + rng.uniform(0.0, 0.15) * grain)[..., None]
    depth = -patch.distance
    bevel = pose.radius * rng.choice([0.15, 0.3, 0.8])
    profile = 1.0 - np.clip(depth / bevel, 0.0, 1.0)
    relief = gaussian_filter(0.7 * bevel * np.sqrt(np.clip(1.0 - profile**2, 0.0, 1.0)), max(0.6, 0.04 * pose.radius))
    slope_y, slope_x = np.gradient(relief)
    facing = -(slope_x * light.x + slope_y * light.y) / np.sqrt(1.0 + slope_x**2 + slope_y**2)
    paint *= (1.0 + rng.uniform(0.25, 0.6) * facing)[..., None]
    paint += rng.uniform(0.0, 0.5) * (np.clip(facing, 0.0, 1.0) ** 6)[..., None]
    if rng.random() < 0.4:
        width = max(0.8, 0.06 * pose.radius)
        paint *= (1.0 - rng.uniform(0.4, 0.8) * np.clip(width + 0.5 - depth, 0.0, 1.0))[..., None]
    return np.clip(paint, 0.0, 1.0)


def _photograph(rng: Generator, picture: Floats, light: _Light) -> NDArray[np.uint8]:
    """Light that falls off across the scene, vignette, exposure, mild blur and sensor noise."""
    size = picture.shape[0]
    y, x = np.mgrid[:size, :size].astype(np.float32) * np.float32(2.0 / size) - 1.0
    fall = 1.0 + rng.uniform(0.0, 0.35) * (x * light.x + y * light.y) / math.sqrt(2.0)
    vignette = 1.0 - rng.uniform(0.0, 0.25) * (x**2 + y**2) / 2.0
    tint = 1.0 + rng.normal(0.0, 0.04, 3).astype(np.float32)
    lit = picture * (fall * vignette * rng.uniform(0.85, 1.25))[..., None] * tint
    if rng.random() < 0.6:
        lit = gaussian_filter(lit, (*([rng.uniform(0.3, 0.8)] * 2), 0.0))
    lit = lit + rng.uniform(0.0, 0.025) * rng.standard_normal(lit.shape, dtype=np.float32)
    return np.asarray(np.clip(255.0 * lit + 0.5, 0.0, 255.0), dtype=np.uint8)
