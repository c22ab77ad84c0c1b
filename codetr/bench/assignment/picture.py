"""The picture of several operations: how many times as fast ours is as each case's peer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codetr.bench.assignment.measuring import Row
from codetr.bench.candidates import OURS
from codetr.bench.chart import OUR_COLOUR, ROOM, TICKS, require_matplotlib
from codetr.bench.measuring import Row as AttentionRow
from codetr.bench.report import milliseconds
from codetr.bench.timing import Times
from codetr.errors import UserError

STEP_COLOUR = "#1f3b57"
ATTENTION = "deform_attention"
CHAINS = {"op": "operation", "whole": "whole chain"}


@dataclass(frozen=True)
class Bar:
    """Ours beside the peer: their medians in milliseconds."""

    op: str
    label: str
    peer: str
    is_step: bool
    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        """How many times as fast ours is."""
        return self.theirs / self.ours


def bars(rows: Sequence[Row]) -> list[Bar]:
    """Forward, and both passes where there are two, of each case where both were timed."""
    by_name = {(row.case, row.candidate): row for row in rows}
    found: list[Bar] = []
    for row in rows:
        peer = by_name.get((row.case, row.peer))
        if row.candidate == OURS and peer is not None and peer.candidate != OURS:
            found += _both(row.op, row.case, row.peer, row, peer)
    return found


def attention_bars(rows: Sequence[AttentionRow], against: str) -> list[Bar]:
    """The same of multi-scale deformable attention beside one peer."""
    by_name = {(row.problem, row.chain, row.candidate): row for row in rows}
    found: list[Bar] = []
    for row in rows:
        peer = by_name.get((row.problem, row.chain, against))
        if row.candidate == OURS and peer is not None and against != OURS:
            found += _both(ATTENTION, f"{row.problem}, {CHAINS[row.chain]}", against, row, peer)
    return found


def _both(op: str, label: str, name: str, ours: Row | AttentionRow, peer: Row | AttentionRow) -> list[Bar]:
    pairs: list[tuple[bool, Times | None, Times | None]]
    pairs = [(False, ours.forward, peer.forward), (True, ours.step, peer.step)]
    return [
        Bar(op, label, name, is_step, own.median, theirs.median)
        for is_step, own, theirs in pairs
        if own is not None and theirs is not None
    ]


def draw(shown: Sequence[Bar], file: Path, *, subtitle: str) -> None:
    """Write a PNG of horizontal bars, log scale, one line a case, grouped by operation; 1 is the peer.

    Raises:
        UserError: there is nothing to show, or the file cannot be written.
    """
    require_matplotlib()
    if not shown:
        raise UserError("--chart: nothing was timed beside its peer, so there is nothing to draw")
    from matplotlib.figure import Figure

    places, headings, last = _places(shown)
    picture = Figure(figsize=(11, 1.6 + 0.24 * last), layout="constrained", dpi=130)
    axis = picture.subplots()
    for is_step, colour, label in ((False, OUR_COLOUR, "forward"), (True, STEP_COLOUR, "forward and backward")):
        chosen = [(place, bar) for place, bar in zip(places, shown, strict=True) if bar.is_step == is_step]
        widths = [bar.ratio - 1 for _, bar in chosen]  # bars start at 1, so that slower ones point left
        if chosen:
            axis.barh([place for place, _ in chosen], widths, left=1, height=0.8, color=colour, label=label)
    for place, bar in zip(places, shown, strict=True):
        _write(axis, place, bar)
    lines: dict[str, list[float]] = {}
    for place, bar in zip(places, shown, strict=True):
        lines.setdefault(bar.label, []).append(place)
    axis.set_yticks([sum(own) / len(own) for own in lines.values()], list(lines), fontsize=8.5)
    for place, op in headings:
        axis.annotate(
            op, (0, place), xycoords=("axes fraction", "data"), xytext=(-6, 0), textcoords="offset points",
            ha="right", va="center", fontsize=9.5, fontweight="bold", color="#222222",
        )  # fmt: skip
    axis.set_ylim(last, -0.6)
    _scale(axis, [bar.ratio for bar in shown])
    title = f"times as fast as the peer named beside each bar\n{subtitle}"
    axis.set_title(title, fontsize=10.5, loc="left", color="#222222")
    picture.legend(loc="outside lower right", ncols=2, fontsize=9, frameon=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.savefig(file)
    except OSError as error:
        raise UserError(
            f"--chart {file}: cannot be written ({error.strerror}). Name a file in a folder of yours."
        ) from error


def _places(shown: Sequence[Bar]) -> tuple[list[float], list[tuple[float, str]], float]:
    """Heights of the bars and of the operations' headings, and the end; both bars of a case side by side."""
    places: list[float] = []
    headings: list[tuple[float, str]] = []
    place, op, label = 0.0, "", ""
    for bar in shown:
        if bar.op != op:
            place += 0.3 if headings else 0.0
            headings.append((place, bar.op))
            place += 1.0
        elif bar.label != label:
            place += 0.25
        op, label = bar.op, bar.label
        places.append(place)
        place += 0.85
    return places, headings, place


def _scale(axis: Any, values: Sequence[float]) -> None:
    """A log axis around 1, with room for the words beside the bars."""
    low, high = min([*values, 0.7]), max([*values, 1.4])
    span = (high / low) ** 0.55 * ROOM
    has_slower = any(value < 1 for value in values)
    low, high = low / (span if has_slower else ROOM), high * span
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    ticks = [tick for tick in (*TICKS, 10000.0) if low < tick < high]
    ticks = [tick for tick in ticks if len(ticks) < 10 or f"{tick:e}".startswith("1")]
    axis.set_xticks(ticks, [f"{tick:g}x" for tick in ticks], fontsize=8.5)
    axis.set_xticks([], minor=True)
    axis.axvline(1, color="#222222", linewidth=1)
    axis.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)


def _write(axis: Any, place: float, bar: Bar) -> None:
    ratio = f"{bar.ratio:.2g}" if bar.ratio < 0.1 else f"{bar.ratio:.2f}" if bar.ratio < 10 else f"{bar.ratio:,.0f}"
    times = f"{milliseconds(bar.theirs)} → {milliseconds(bar.ours)} ms"
    faster = bar.ratio >= 1
    axis.annotate(
        f"{ratio}  ({bar.peer}: {times})",
        (bar.ratio, place),
        xytext=(3 if faster else -3, 0),
        textcoords="offset points",
        ha="left" if faster else "right",
        va="center",
        fontsize=7.5,
        color="#222222",
    )
