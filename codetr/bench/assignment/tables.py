"""What a run of the cases shows: one table an operation, and who could not be measured."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from codetr.bench.assignment.case import OURS, Case
from codetr.bench.assignment.measuring import Row
from codetr.bench.report import milliseconds
from codetr.bench.timing import Times


def print_op(out: Console, cases: Sequence[Case], rows: Sequence[Row]) -> None:
    """The table of one operation: its cases one below the other; then what is wrong, failed or not there."""
    shapes = {case.name: case.shape for case in cases}
    table = Table(title=Text(f"\n{rows[0].op}", "bold"), title_justify="left")
    table.add_column("")
    has_step, has_memory = any(row.step for row in rows), any(row.peak_memory is not None for row in rows)
    headings = ["forward ms", "p95", "x peer"] + (["fwd+bwd ms", "p95", "x peer"] if has_step else [])
    for heading in [*headings, *(["peak MiB"] if has_memory else [])]:
        table.add_column(heading, justify="right")
    shown = [row for row in rows if row.status != "absent"]
    for name in dict.fromkeys(row.case for row in shown):
        table.add_row(Text(f"{name}: {shapes[name]}", "italic"))
        for row in shown:
            if row.case == name:
                style = "bold" if row.candidate == OURS else ""
                cells = _cells(row, has_step=has_step, has_memory=has_memory)
                table.add_row(*(Text(cell, style) for cell in cells))
        table.add_section()
    if table.row_count:
        out.print(table)
    for line, style in _remarks(rows):
        out.print(Text(line, style))


def _cells(row: Row, *, has_step: bool, has_memory: bool) -> list[str]:
    label = f"  {row.candidate}{' (peer)' if row.candidate == row.peer else ''}"
    if row.forward is None:
        return [label, row.status]
    cells = [label, *_times(row.forward, row.forward_ratio)]
    if has_step:
        cells += _times(row.step, row.step_ratio)
    if has_memory:
        cells.append("" if row.peak_memory is None else f"{row.peak_memory / 2**20:,.1f}")
    return cells


def _times(times: Times | None, ratio: float | None) -> list[str]:
    if times is None:
        return ["", "", ""]
    return [milliseconds(times.median), milliseconds(times.p95), "" if ratio is None else f"{ratio:.2f}"]


def _remarks(rows: Sequence[Row]) -> list[tuple[str, str]]:
    found = [
        (f"  {row.case}: {row.candidate}: {row.status}: {row.reason}", "dim" if row.status == "left out" else "red")
        for row in rows
        if row.status not in ("timed", "absent")
    ]
    absent = dict.fromkeys((row.candidate, row.reason) for row in rows if row.status == "absent")
    return found + [(f"  {name}: absent: {reason}", "dim") for name, reason in absent]
