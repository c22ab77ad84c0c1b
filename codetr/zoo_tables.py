"""The zoo and its models as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich import box
from rich.table import Table
from rich.text import Text

from codetr.inference_trace import IMAGE
from codetr.model_summary import ModelSummary, Part
from codetr.zoo import COCO_VAL, Recipe

_CAPTIONS = {
    "Table 2": "plain baselines",
    "Table 3": "strong baselines",
    "Table 4": "the state of the art",
    "Table 7": "the number of heads",
    "Table 8": "one head or another",
    "Table 9": "head and positive queries",
    "Table 10": "longer schedules",
    "Table 12": "stacked convolutions in the head",
    "Table 13": "the weights of the losses",
}

_AROUND_TEXT = 58
"""Columns of the terminal that a row of the paper needs beside its text: name, K, epochs, figures."""


def recipe_tables(recipes: Sequence[Recipe], *, width: int) -> Iterator[Table]:
    """Tables of the recipes at the top of the zoo, of fragments, and one for each table of the paper.

    width: columns of the terminal, of which no more than a hundred are used.
    """
    text = max(min(width, 100) - _AROUND_TEXT, 10)
    others = [recipe for recipe in recipes if recipe.row is None]
    for title, group in (
        ("Recipes", [recipe for recipe in others if "/" not in recipe.name]),
        ("Fragments", [recipe for recipe in others if "/" in recipe.name]),
    ):
        if group:
            yield _plain_table(title, group, text=text + 12)
    rows = [recipe for recipe in recipes if recipe.row is not None]
    for name, of_table in groupby(rows, key=lambda recipe: recipe.row.table if recipe.row else ""):
        yield _paper_table(name, list(of_table), text=text)


def _table(title: str) -> Table:
    return Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )


def _plain_table(title: str, recipes: list[Recipe], *, text: int) -> Table:
    table = _table(title)
    table.add_column("spec", style="cyan", no_wrap=True, min_width=30)
    table.add_column("what it is", width=text, overflow="fold")
    table.add_column("AP", justify="right", width=5, style="bold")
    table.add_column("ours", justify="right", width=5)
    for recipe in recipes:
        what = Text(recipe.summary)
        if recipe.measured is not None and recipe.measured.dataset != COCO_VAL:
            what.append(f"\nours: on {recipe.measured.dataset}", style="dim")
        table.add_row(recipe.name, what, _figure(recipe.published), _ours(recipe))
    return table


def _paper_table(name: str, recipes: list[Recipe], *, text: int) -> Table:
    caption = _CAPTIONS.get(name)
    table = _table(f"{name} of the paper{f': {caption}' if caption else ''}")
    table.add_column("spec", style="cyan", min_width=30, no_wrap=True)
    table.add_column("row", width=text, overflow="fold")
    table.add_column("K", justify="right", width=1)
    table.add_column("epochs", justify="right", width=6)
    table.add_column("AP", justify="right", width=4, style="bold")
    table.add_column("ours", justify="right", width=5)
    for recipe in recipes:
        row = recipe.row
        assert row is not None
        what = Text(row.method)
        if row.detail:
            what.append(f", {row.detail}", style="dim")
        figures = _figure(recipe.published), _ours(recipe)
        table.add_row(recipe.name, what, str(row.k), str(row.epochs), *figures)
    return table


def _figure(value: float | None) -> str:
    """An AP with one decimal, nothing where there is none."""
    return "" if value is None else f"{value:.1f}"


def _ours(recipe: Recipe) -> str:
    return "" if recipe.measured is None else _figure(recipe.measured.ap)


def model_table(summary: ModelSummary, *, title: str) -> Table:
    """The module tree with parameters and operations. Parts that inference does not have are yellow."""
    table = _table(title)
    table.add_column("part", no_wrap=True, width=50)
    for column in ("parameters", "trained", "in training\nonly"):
        table.add_column(column, justify="right", no_wrap=True, width=11)
    table.add_column("GFLOPs", justify="right", no_wrap=True, width=8)
    for part in summary.parts:
        table.add_row(*_cells(part), style=_style(part))
    total = summary.total
    table.add_section()
    table.add_row("in training", *_counts(total.parameters, total.trained, total.training_only), "", style="bold")
    left = total.parameters - total.training_only
    table.add_row("at inference", *_counts(left, None, None), _giga(total.flops), style="bold")
    return table


def model_note(summary: ModelSummary) -> str:
    """How the operations were counted."""
    height, width = IMAGE
    sampling = summary.sampling
    left_out = f", and leave out the samples of deformable attention ({_giga(sampling)} here)" if sampling else ""
    return (
        f"{summary.num_classes} classes. GFLOPs: inference on an image of {height} x {width}, a multiply-add counted "
        f"as two. Most papers count one{left_out}: {_giga((summary.total.flops - sampling) // 2)}."
    )


def _cells(part: Part) -> tuple[Text | str, ...]:
    label = Text("  " * part.depth + part.name, style="bold" if part.depth == 0 else "")
    label.append(f"  {part.kind}", style="dim not bold")
    flops = _giga(part.flops) if part.flops else ""
    return (label, *_counts(part.parameters, part.trained, part.training_only), flops)


def _style(part: Part) -> str:
    return "yellow" if part.parameters and part.training_only == part.parameters else ""


def _counts(*values: int | None) -> tuple[str, ...]:
    return tuple(f"{value:,}" if value else "" for value in values)


def _giga(flops: int) -> str:
    return f"{flops / 1e9:,.1f}"
