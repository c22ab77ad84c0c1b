"""What detection and scoring cost, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from codetr.bench.evaluation.measuring import Result
from codetr.bench.evaluation.scoring import Scored
from codetr.bench.evaluation.subjects import FUSION, OURS, POSTPROCESSING, READING, RESIZING
from codetr.bench.report import milliseconds
from codetr.bench.step.recorder import REST, in_order


def print_detection(out: Console, results: Sequence[Result], *, title: str) -> None:
    """Subjects in columns; parts in rows, which add up to the milliseconds of an image."""
    out.print(Text(f"\n{title}", "bold"), soft_wrap=True)
    table = Table()
    table.add_column("milliseconds of an image")
    for result in results:
        table.add_column(f"{result.name}\nbatch {result.batch}", justify="right")
    for part in ordered({name for result in results for name in result.parts}):
        name = f"{part} (waiting for)" if part == READING and all(r.name == OURS for r in results) else part
        table.add_row(name, *(milliseconds(r.parts[part]) if part in r.parts else "" for r in results))
    table.add_section()
    table.add_row("all", *(milliseconds(result.mean) for result in results), style="bold")
    spread = [f"{milliseconds(min(r.rounds))} - {milliseconds(max(r.rounds))}" for r in results]
    table.add_row("of all rounds", *spread)
    table.add_row("images/s", *(f"{result.images_per_second:,.3g}" for result in results), style="bold")
    out.print(table)
    for result in results:
        if result.note:
            out.print(Text(f"{result.name}: {result.note}"))
    out.print(Text(f"{OURS}: threads read ahead; its {READING} is the time that the model waits for them"))


def print_scoring(out: Console, scored: Sequence[Scored]) -> None:
    """One row an evaluator."""
    out.print(Text("\nscoring synthetic detections", "bold"))
    table = Table()
    for name in ("evaluator", "images", "objects", "detections", "reading annotations, s", "scoring, s", "AP"):
        table.add_column(name, justify="left" if name == "evaluator" else "right")
    for one in scored:
        counts = (f"{count:,}" for count in (one.images, one.objects, one.detections))
        table.add_row(one.evaluator, *counts, f"{one.reading_seconds:.2f}", f"{one.seconds:.2f}", f"{one.AP:.6f}")
    out.print(table)


def ordered(parts: set[str]) -> list[str]:
    """In the order in which they take place."""
    first, last = (READING, RESIZING), (POSTPROCESSING, FUSION, REST)
    middle = in_order(parts - {*first, *last})
    return [part for part in (*first, *middle, *last) if part in parts]
