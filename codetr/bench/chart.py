"""The picture of a run: how many times as fast as one peer everyone is, on each problem."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetr.bench.candidates import OURS
from codetr.errors import UserError

if TYPE_CHECKING:
    from codetr.bench.measuring import Row

OUR_COLOUR = "#c8102e"
PEER_COLOURS = ("#1f3b57", "#4f7ca8", "#8fb3d1", "#7d8f69", "#b5a36a", "#8a6f8f", "#5f5f5f", "#a9a9a9")
PANELS = (("forward", "forward"), ("step", "forward and backward"))
FEW = 4
"""Problems whose four panels fit two by two; those of more stand side by side."""

ROOM = 1.6
TICKS = tuple(digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5))
CHAINS = {"op": "operation alone", "whole": "whole chain"}


def require_matplotlib() -> None:
    """Raises: UserError if it is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("--chart needs matplotlib: pip install 'codetr[plot]'")


def ratios(rows: Sequence[Row], *, chain: str, figure: str, against: str) -> dict[str, dict[str, float]]:
    """problem -> candidate -> the peer's median by the candidate's; only of those timed beside the peer."""
    medians: dict[str, dict[str, float]] = {}
    for row in rows:
        times = row.forward if figure == "forward" else row.step
        if row.chain == chain and times is not None:
            medians.setdefault(row.problem, {})[row.candidate] = times.median
    return {
        problem: {name: times[against] / median for name, median in times.items() if name != against}
        for problem, times in medians.items()
        if against in times and len(times) > 1
    }


def draw(rows: Sequence[Row], file: Path, *, against: str, subtitle: str) -> None:
    """Write a PNG of horizontal bars, log scale, one panel a direction and chain; 1 is the peer.

    Raises:
        UserError: `against` was not timed, or the file cannot be written.
    """
    require_matplotlib()
    panels = {
        (chain, figure): ratios(rows, chain=chain, figure=figure, against=against)
        for chain in CHAINS
        for figure, _ in PANELS
    }
    if not any(panels.values()):
        timed = sorted({row.candidate for row in rows if row.status == "timed"})
        raise UserError(
            f"--against {against}: it was not timed beside others; timed were: {', '.join(timed) or 'none'}"
        )
    from matplotlib.figure import Figure

    names = _in_order({name for panel in panels.values() for row in panel.values() for name in row})
    problems = list(dict.fromkeys(problem for panel in panels.values() for problem in panel))
    rows_of_panels = 2 if len(problems) <= FEW else 1
    height = 2 + rows_of_panels * (0.4 + len(problems) * (0.17 * len(names) + 0.14))
    picture = Figure(figsize=(12 if rows_of_panels == 2 else 17, height), layout="constrained", dpi=130)
    axes = picture.subplots(rows_of_panels, 4 // rows_of_panels, sharex=True, sharey=True).flat
    for axis, ((chain, figure), panel) in zip(axes, panels.items(), strict=True):
        _panel(axis, panel, problems, names)
        axis.set_title(f"{dict(PANELS)[figure]}, {CHAINS[chain]}", fontsize=10.5, loc="left", color="#222222")
    _scale(axes[0], [value for panel in panels.values() for row in panel.values() for value in row.values()])
    picture.suptitle(f"Multi-scale deformable attention\n{subtitle}", fontsize=11.5, x=0.01, ha="left")
    handles, labels = axes[0].get_legend_handles_labels()
    title = f"times as fast as {against}, log scale"
    columns = min(len(names), 7)
    legend = picture.legend(handles, labels, loc="outside lower center", ncols=columns, title=title, fontsize=9)
    legend.set_frame_on(False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.savefig(file)
    except OSError as error:
        raise UserError(
            f"--chart {file}: cannot be written ({error.strerror}). Name a file in a folder of yours."
        ) from error


def _in_order(names: set[str]) -> list[str]:
    """Ours first."""
    return sorted(names, key=lambda name: (name != OURS, name))


def _panel(axis: Any, panel: dict[str, dict[str, float]], problems: list[str], names: list[str]) -> None:
    colours = dict(zip([name for name in names if name != OURS], PEER_COLOURS, strict=False)) | {OURS: OUR_COLOUR}
    height = 0.84 / len(names)
    for index, name in enumerate(names):
        places = [row + (index - (len(names) - 1) / 2) * height for row in range(len(problems))]
        values = [panel.get(problem, {}).get(name, float("nan")) for problem in problems]
        # Bars start at 1, so that slower ones point left.
        widths = [value - 1 for value in values]
        axis.barh(places, widths, left=1, height=0.88 * height, color=colours.get(name, "#a9a9a9"), label=name)
        for place, value in zip(places, values, strict=True):
            if value == value:
                _write(axis, place, value, bold=name == OURS)
    axis.set_yticks(range(len(problems)), problems, fontsize=9)
    axis.set_ylim(len(problems) - 0.5, -0.5)
    axis.axvline(1, color="#222222", linewidth=1)
    axis.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)


def _scale(axis: Any, values: Sequence[float]) -> None:
    """A log axis around 1, with room for the figures beside the bars; the panels share it."""
    low, high = min([*values, 0.7]) / ROOM, max([*values, 1.4]) * ROOM
    ticks = [tick for tick in TICKS if low < tick < high]
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    axis.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axis.set_xticks([], minor=True)


def _write(axis: Any, place: float, value: float, *, bold: bool) -> None:
    faster = value >= 1
    axis.annotate(
        f"{value:.2f}" if value < 10 else f"{value:.0f}",
        (value, place),
        xytext=(3 if faster else -3, 0),
        textcoords="offset points",
        ha="left" if faster else "right",
        va="center",
        fontsize=7.5,
        fontweight="bold" if bold else "normal",
        color="#222222",
    )
