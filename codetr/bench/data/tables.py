"""What `codetr bench data` prints and writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from codetr.bench.data.measuring import Rate, Stage, relative
from codetr.bench.data.readers import BASELINE, Subject

STAGES = {
    "read": "bytes of the file",
    "decode": "to pixels (H, W, 3)",
    "sample": "channels first, annotations",
    "augment": "the recipe, and float pixels",
    "collate": "padded, into the batch",
}


def print_readers(
    out: Console,
    rates: Sequence[Rate],
    subjects: Sequence[Subject],
    absent: Mapping[str, str],
    *,
    title: str,
    workers: int,
) -> None:
    """One row a reader."""
    notes = {subject.name: subject.note for subject in subjects}
    shares = relative(rates)
    table = Table(title=Text(title, "bold"), title_justify="left")
    table.add_column("")
    for name in ("images/s", "least, most", "per worker", f"of {BASELINE}", "first batch, s"):
        table.add_column(name, justify="right")
    table.add_column("what it does")
    for rate in rates:
        middle, least, most = rate.images_per_second
        cells = [rate.name, f"{middle:.1f}", f"{least:.1f}, {most:.1f}", f"{middle / max(workers, 1):.1f}"]
        cells += [f"{shares[rate.name]:.2f}", f"{rate.first_batch[0]:.1f}", notes[rate.name]]
        table.add_row(*(Text(cell, "bold" if rate.name == BASELINE else "") for cell in cells))
    out.print(table)
    for name, reason in absent.items():
        out.print(Text(f"  {name}: absent: {reason}", "dim"))


def print_stages(out: Console, stages: Mapping[str, Sequence[Stage]]) -> None:
    """One row a stage, one column a form of the data."""
    table = Table(title=Text("\nan image in one process, milliseconds", "bold"), title_justify="left")
    table.add_column("")
    for name in stages:
        table.add_column(name, justify="right")
    table.add_column("")
    columns = list(stages.values())
    for row in zip(*columns, strict=True):
        table.add_row(row[0].name, *(f"{stage.milliseconds:.2f}" for stage in row), STAGES[row[0].name])
    table.add_row("all", *(f"{sum(stage.milliseconds for stage in column):.2f}" for column in columns), "")
    out.print(table)


def record(
    rates: Sequence[Rate], absent: Mapping[str, str], stages: Mapping[str, Sequence[Stage]], *, workers: int
) -> dict[str, Any]:
    """The same for JSON."""
    shares = relative(rates)
    return {
        "readers": {
            rate.name: {
                "images_per_second": rate.images_per_second[0],
                "per_worker": rate.images_per_second[0] / max(workers, 1),
                "least_and_most": rate.images_per_second[1:],
                f"of {BASELINE}": shares[rate.name],
                "first_batch_seconds": rate.first_batch[0],
            }
            for rate in rates
        },
        "absent": dict(absent),
        "stages_ms": {name: {stage.name: stage.milliseconds for stage in column} for name, column in stages.items()},
    }
