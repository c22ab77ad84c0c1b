"""The picture of an assignment: one panel a branch, and the number of positives of every object below."""

from __future__ import annotations

import importlib.util
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from codetr.errors import UserError
from codetr.inspection.assignment import Branch
from codetr.inspection.report import Inspection, title

# Bright on a dark photograph and readable on paper; neighbours in the list differ in hue and in lightness.
COLOURS = (
    "#ff9f1c", "#2ec4ff", "#ff4d6d", "#7ae582", "#b388ff", "#ffe14d",
    "#00c2a8", "#ff8fd0", "#4d7cff", "#c8e64a", "#ff7043", "#9be7ff",
)  # fmt: skip
INK, FAINT, LINE = "#1b1f24", "#6a737d", "#d9dde2"
_COLUMNS = 3
_WIDTH, _HEAD, _TITLE = 15.0, 1.1, 0.62
"""Inches: of the picture, of what stands above the panels, of what stands above each row of them."""
_GAP = 0.03
_BRIGHTNESS = 0.36
"""Mean of the photograph behind the markers, if it is not darker by itself."""
_MARKERS = (13.0, 26.0, 46.0, 76.0, 118.0, 170.0)
"""Areas of the markers by level, in square points."""
_MOST = 45
"""Objects that have a bar."""


def require_matplotlib(option: str) -> None:
    """Raises: UserError if it is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(f"{option} needs matplotlib: pip install 'codetr[plot]'")


def draw(found: Inspection, file: Path) -> None:
    """Write the picture. Raises: UserError if matplotlib is missing or the file cannot be written."""
    require_matplotlib("a picture")
    from matplotlib.figure import Figure

    count = len(found.branches)
    columns = min(count, _COLUMNS)
    rows = math.ceil(count / columns)
    height, width = found.image.shape[1:]
    panel = 0.96 * _WIDTH / (columns + _GAP * (columns - 1)) * height / width
    above, strips = _HEAD + rows * (panel + _TITLE), 0.8 * count + 1.1
    figure = Figure(figsize=(_WIDTH, above + strips), dpi=130, facecolor="white")
    halves: Any = figure.subfigures(2, 1, height_ratios=(above, strips))
    upper, lower = halves
    _head(figure, found)
    axes = upper.subplots(rows, columns, squeeze=False, gridspec_kw={"wspace": _GAP, "hspace": _TITLE / panel})
    upper.subplots_adjust(left=0.02, right=0.98, top=1 - (_HEAD + _TITLE) / above, bottom=0)
    photograph = _backdrop(found)
    for axis, branch in zip(axes.flat, found.branches, strict=False):
        _panel(axis, found, branch, photograph)
    for axis in axes.flat[count:]:
        axis.axis("off")
    _strips(lower, found)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(file)
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: the picture cannot be written ({error}). Use a name such as out.png.") from error


def colour_of(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def plain(text: str) -> str:
    """A text of a file that matplotlib would otherwise read as a formula."""
    return text.replace("$", r"\$")


def _head(figure: Any, found: Inspection) -> None:
    """What it is, and in one line what it shows."""
    height = figure.get_size_inches()[1]
    figure.text(
        0.02, 1 - 0.22 / height, "What each branch calls positive", fontsize=17, fontweight="bold", color=INK, va="top"
    )
    means = ", ".join(f"{found.mean(branch):.1f} {title(branch)}" for branch in found.branches)
    keys = "solid: objects   dashed: the box of a query or region   dots: centres, of priors larger on coarser levels"
    for place, line in ((0.58, f"{found.file}, {found.model}"), (0.82, f"positives of an object on average: {means}")):
        figure.text(0.02, 1 - place / height, plain(line), fontsize=10, color=FAINT, va="top")
    figure.text(0.98, 1 - 0.30 / height, keys, fontsize=9, color=FAINT, va="top", ha="right")


def _backdrop(found: Inspection) -> np.ndarray:
    """The photograph, darker and with less colour, so that markers stand out."""
    pixels = found.image.permute(1, 2, 0).numpy().astype(np.float32) / 255
    grey = pixels.mean(2, keepdims=True)
    backdrop: np.ndarray = (0.45 * pixels + 0.55 * grey) * min(1.0, _BRIGHTNESS / max(1e-3, float(grey.mean())))
    return backdrop.clip(0, 1)


def _panel(axis: Any, found: Inspection, branch: Branch, photograph: np.ndarray) -> None:
    height, width = photograph.shape[:2]
    axis.imshow(photograph, interpolation="bilinear", extent=(0, width, height, 0))
    for index in _by_size(found):
        _outline(axis, found.boxes[index].tolist(), colour_of(index))
    if branch.form == "points":
        _points(axis, branch)
    else:
        _boxes(axis, branch, (height, width))
    _numbers(axis, found)
    axis.set_xlim(0, width)
    axis.set_ylim(height, 0)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    total = len(branch.objects)
    count = f"{total} positive{'' if total == 1 else 's'}"
    _above(axis, 0, 20, plain(title(branch)), fontsize=12.5, fontweight="bold", color=INK)
    _above(axis, 1, 20, count, fontsize=10.5, color=INK, ha="right")
    _above(axis, 0, 6, plain(_second_line(branch)), fontsize=8.5, color=FAINT)


def _above(axis: Any, x: float, points: float, text: str, **style: Any) -> None:
    """A text so many points above a panel."""
    axis.annotate(text, (x, 1), xycoords="axes fraction", xytext=(0, points), textcoords="offset points", **style)


def _second_line(branch: Branch) -> str:
    """Where the positives of a branch lie."""
    if branch.levels is None:
        return "one query an object, as the last layer is matched"
    counts = branch.levels.bincount(minlength=len(branch.strides)).tolist()
    shown = [f"{stride}: {count}" for stride, count in zip(branch.strides, counts, strict=True) if count]
    sampled = "   (as many as it samples of an image)" if branch.sampled else ""
    return f"by stride of the level   {'   '.join(shown) or 'none'}{sampled}"


def _by_size(found: Inspection) -> list[int]:
    """Objects, the largest first, so that small ones are drawn on top."""
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    order: list[int] = sides.prod(1).argsort(descending=True).tolist()
    return order


def _outline(axis: Any, corners: list[float], colour: str) -> None:
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = corners
    for width, edge, alpha in ((2.6, "black", 0.5), (1.3, colour, 1.0)):
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, linewidth=width, edgecolor=edge, alpha=alpha))


def _points(axis: Any, branch: Branch) -> None:
    """Centres of priors; small ones last, on top of large ones."""
    levels = [0] * len(branch.boxes) if branch.levels is None else branch.levels.tolist()
    centres = ((branch.boxes[:, :2] + branch.boxes[:, 2:]) / 2).tolist()
    for level, (x, y), index in sorted(zip(levels, centres, branch.objects.tolist(), strict=True), reverse=True):
        size = _MARKERS[min(level, len(_MARKERS) - 1)]
        axis.scatter([x], [y], s=size, color=colour_of(index), edgecolors="black", linewidths=0.6, alpha=0.92, zorder=4)


def _boxes(axis: Any, branch: Branch, size: tuple[int, int]) -> None:
    """Boxes in the colour of their object, with their centres."""
    from matplotlib.patches import Rectangle

    height, width = size
    for (x1, y1, x2, y2), index in zip(branch.boxes.tolist(), branch.objects.tolist(), strict=True):
        colour = colour_of(index)
        patch = Rectangle(
            (x1, y1), x2 - x1, y2 - y1, fill=False, linewidth=1.0, edgecolor=colour, linestyle=(0, (4, 2))
        )
        axis.add_patch(patch)
        x, y = min(max((x1 + x2) / 2, 0), width), min(max((y1 + y2) / 2, 0), height)
        axis.scatter([x], [y], s=16, color=colour, edgecolors="black", linewidths=0.6, zorder=4)


def _numbers(axis: Any, found: Inspection) -> None:
    """The number of each object at a corner of its outline."""
    size = 8.0 if len(found.names) <= 20 else 6.5
    for index, (x1, y1, _, _) in enumerate(found.boxes.tolist()):
        box = {"boxstyle": "round,pad=0.15", "facecolor": colour_of(index), "edgecolor": "black", "linewidth": 0.5}
        style = {"fontsize": size, "fontweight": "bold", "color": "black", "ha": "left", "va": "top", "zorder": 5}
        axis.text(x1, y1, str(index + 1), bbox=box, **style)


def _strips(figure: Any, found: Inspection) -> None:
    """One row of bars a branch, one bar an object, in the object's colour."""
    number = min(len(found.names), _MOST)
    counts = [branch.counts(len(found.names))[:number] for branch in found.branches]
    axes = figure.subplots(len(counts), 1, squeeze=False, sharex=True).flat
    height = figure.bbox.height / figure.dpi
    figure.subplots_adjust(left=0.115, right=0.98, top=1 - 0.22 / height, bottom=0.95 / height, hspace=0.28)
    last = None
    places = range(number)
    highest = max(1, *(value for numbers in counts for value in numbers))
    for axis, branch, numbers in zip(axes, found.branches, counts, strict=True):
        last = axis
        axis.bar(places, numbers, width=0.72, color=[colour_of(i) for i in places], edgecolor=INK, linewidth=0.5)
        for place, value in zip(places, numbers, strict=True):
            colour = INK if value else "#d1242f"
            axis.text(place, value + 0.06 * highest, str(value), ha="center", va="bottom", fontsize=8, color=colour)
        axis.set_ylim(0, 1.45 * highest)  # the same for all branches, so that bars can be compared
        axis.set_yticks([])
        axis.set_ylabel(plain(title(branch)), rotation=0, ha="right", va="center", fontsize=9.5, color=INK, labelpad=8)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.spines["bottom"].set_color(LINE)
        axis.tick_params(axis="x", length=0)
    assert last is not None
    last.set_xlim(-0.6, max(number, 8) - 0.4)
    labels = [plain(_short(label)) for label in found.labels[:number]]
    turned = 0 if number <= 9 else 38
    last.set_xticks(range(number), labels, rotation=turned, ha="right" if turned else "center", fontsize=8.5, color=INK)
    if len(found.names) > number:
        figure.text(0.98, 0.02, f"and {len(found.names) - number} more objects", ha="right", fontsize=8.5, color=FAINT)


def _short(text: str) -> str:
    return text if len(text) <= 20 else f"{text[:19]}\N{HORIZONTAL ELLIPSIS}"
