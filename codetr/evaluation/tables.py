"""Figures for people: rich tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from codetr.evaluation.figures import FIGURE_NAMES, UNDEFINED, CocoFigures

_MEANINGS = {
    "AP": ("0.50:0.95", "all"),
    "AP50": ("0.50", "all"),
    "AP75": ("0.75", "all"),
    "APs": ("0.50:0.95", "small"),
    "APm": ("0.50:0.95", "medium"),
    "APl": ("0.50:0.95", "large"),
    "AR1": ("0.50:0.95", "all"),
    "AR10": ("0.50:0.95", "all"),
    "AR100": ("0.50:0.95", "all"),
    "ARs": ("0.50:0.95", "small"),
    "ARm": ("0.50:0.95", "medium"),
    "ARl": ("0.50:0.95", "large"),
}
"""IoU and size of object of each figure."""


def shown(value: float) -> str:
    """A figure with three decimals, `n/a` where there is no ground truth to measure it on."""
    return "n/a" if value == UNDEFINED else f"{value:.3f}"


def print_figures(
    figures: CocoFigures, console: Console, *, title: str, heading: str | None = None, per_class: bool = False
) -> None:
    """Print the twelve figures, and the AP of each class if wanted. heading: tells several tables apart."""
    if console.is_terminal:
        console.print(_figures_table(figures, title if heading is None else f"{title}: {heading}"))
        if per_class:
            console.print(_classes_table(figures))
        return
    if heading is not None:
        console.print(heading, markup=False, highlight=False)
    _print_lines(console, ((figures.public_name(name), getattr(figures, name)) for name in FIGURE_NAMES))
    if per_class:
        _print_lines(console, ((f"AP {name}", value) for name, value in figures.per_class.items()))


def _print_lines(console: Console, pairs: Iterable[tuple[str, float]]) -> None:
    lines = [(name, shown(value)) for name, value in pairs]
    width = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        console.print(f"{name:<{width}}  {value}", markup=False, highlight=False, soft_wrap=True)


def _figures_table(figures: CocoFigures, title: str) -> Table:
    table = Table(title=Text(title), title_justify="left")
    for column in ("figure", "IoU", "objects"):
        table.add_column(column)
    table.add_column("detections", justify="right")
    table.add_column("value", justify="right", style="bold")
    limits = {"AR1": 1, "AR10": min(10, figures.max_detections)}
    for name, (iou, objects) in _MEANINGS.items():
        limit = limits.get(name, figures.max_detections)
        value = shown(getattr(figures, name))
        table.add_row(figures.public_name(name), iou, objects, str(limit), value, end_section=name in ("AP75", "APl"))
    return table


def _classes_table(figures: CocoFigures) -> Table:
    table = Table()
    table.add_column("class")
    table.add_column("AP", justify="right", style="bold")
    for name, value in figures.per_class.items():
        table.add_row(Text(name), shown(value))
    return table
