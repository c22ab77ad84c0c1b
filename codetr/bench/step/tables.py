"""The parts of a step side by side, and where the time goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from codetr.bench.report import milliseconds
from codetr.bench.step.measuring import Result
from codetr.bench.step.recorder import in_order
from codetr.bench.step.subjects import WITH, WITHOUT

ON_GPU = "Time of the GPU between the beginning and the end of a part; what waits for the host counts where it waits."


def print_results(out: Console, results: Sequence[Result], *, title: str) -> None:
    """Parts in rows; of each subject milliseconds and share, and every other one's ratio to the detector without heads.

    The parts add up to the step: `rest` is what belongs to none of them.
    """
    out.print(Text(f"\n{title}", "bold"), soft_wrap=True)
    table = Table()
    table.add_column("")
    others = [result for result in results if result.name != WITHOUT]
    for result in results:
        table.add_column(result.name, justify="right")
        table.add_column("share", justify="right", style="dim")
    for result in others:
        table.add_column(f"{short(result.name)} / without", justify="right")
    base = next(result for result in results if result.name == WITHOUT)
    for part in in_order({name for result in results for name in result.parts}):
        table.add_row(part, *_part_cells(results, part), *(_ratio(result, base, part) for result in others))
    table.add_section()
    whole = [cell for result in results for cell in (milliseconds(result.mean), "100.0 %")]
    table.add_row("step", *whole, *(f"{ratio(result, base):.2f}" for result in others), style="bold")
    for name, show in _SUMMARY.items():
        cells = [cell for result in results for cell in (show(result), "")]
        if any(cells):
            table.add_row(name, *cells)
    out.print(table)
    for result in results:
        if result.note:
            out.print(Text(f"{result.name}: {result.note}"))


def ratio(result: Result, base: Result) -> float:
    """How many times as long its step takes as the base's."""
    return result.mean / base.mean


def record(results: Sequence[Result]) -> dict[str, Any]:
    """Everything, for JSON."""
    base = next(result for result in results if result.name == WITHOUT)
    return {
        "subjects": [result.as_dict() for result in results],
        "ratios_to_without_heads": {result.name: ratio(result, base) for result in results if result.name != WITHOUT},
    }


def short(name: str) -> str:
    """A subject's name in a column of ratios."""
    return "with" if name == WITH else "peer"


def _part_cells(results: Sequence[Result], part: str) -> list[str]:
    cells = []
    for result in results:
        value = result.parts.get(part)
        cells += ["", ""] if value is None else [milliseconds(value), f"{100 * value / result.mean:.1f} %"]
    return cells


def _ratio(result: Result, base: Result, part: str) -> str:
    value, of_base = result.parts.get(part), base.parts.get(part)
    # Data and transfer of images in memory take next to nothing, and a ratio of that says nothing.
    if value is None or of_base is None or max(value, of_base) < 0.01 * base.mean or of_base <= 0:
        return ""
    return f"{value / of_base:.2f}"


_SUMMARY: dict[str, Callable[[Result], str]] = {
    "median": lambda result: milliseconds(result.times.median),
    "95th percentile": lambda result: milliseconds(result.times.p95),
    "images/s": lambda result: f"{result.images_per_second:,.3g}",
    "peak memory, MiB": lambda result: "" if result.peak_memory is None else f"{result.peak_memory / 2**20:,.0f}",
    "trained parameters, M": lambda result: f"{result.parameters / 1e6:,.3g}",
}
