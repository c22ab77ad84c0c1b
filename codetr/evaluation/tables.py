"""Figures for people: rich tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from codetr.evaluation.figures import CLASS_NAMES, UNDEFINED, ClassFigures, Figures

_SIZES = {"s": "small", "m": "medium", "l": "large"}
_GROUPS = {"r": "rare classes", "c": "common classes", "f": "frequent classes"}
_CLASS_COLUMNS = ("objects", *(name for name in CLASS_NAMES if name != "objects"))
_NAMES_SHOWN = 5


def shown(value: float) -> str:
    """A figure with three decimals, `n/a` where there is no ground truth to measure it on."""
    return "n/a" if value == UNDEFINED else f"{value:.3f}"


def print_figures(
    figures: Figures, console: Console, *, title: str, heading: str | None = None, per_class: bool = False
) -> None:
    """Print the figures, and those of each class that has objects if wanted. heading: tells several tables apart."""
    if console.is_terminal:
        console.print(_figures_table(figures, title if heading is None else f"{title}: {heading}"))
    else:
        if heading is not None:
            _print_line(console, heading)
        rows = [(figures.public_name(name), shown(getattr(figures, name))) for name in figures.names]
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            _print_line(console, f"{name:<{width}}  {value}")
    if per_class:
        _print_classes(figures, console)


def _print_line(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _meaning(name: str, limit: int | None) -> tuple[str, str, str]:
    """IoU, objects and number of detections of a figure."""
    kind, suffix = name[:2], name[2:]
    detections = "all" if limit is None else str(limit)
    if name in ("AR1", "AR10"):
        return "0.50:0.95", "all", str(min(int(suffix), limit or int(suffix)))
    iou = f"0.{suffix}" if kind == "AP" and suffix.isdigit() else "0.50:0.95"
    return iou, _SIZES.get(suffix) or _GROUPS.get(suffix, "all"), detections


def _figures_table(figures: Figures, title: str) -> Table:
    table = Table(title=Text(title), title_justify="left")
    for column in ("figure", "IoU", "objects"):
        table.add_column(column)
    table.add_column("detections", justify="right")
    table.add_column("value", justify="right", style="bold")
    for name, following in zip(figures.names, (*figures.names[1:], ""), strict=True):
        iou, objects, limit = _meaning(name, figures.max_detections)
        ends = name == "AP75" or name[:2] != following[:2]
        value = shown(getattr(figures, name))
        table.add_row(figures.public_name(name), iou, objects, limit, value, end_section=ends)
    return table


def _print_classes(figures: Figures, console: Console) -> None:
    """One row a class. Those without objects have no figures, and LVIS has hundreds of them: they are counted."""
    with_objects = {name: entry for name, entry in figures.by_class.items() if entry.objects}
    if console.is_terminal:
        console.print(_classes_table(with_objects))
    else:
        for line in _class_lines(with_objects):
            _print_line(console, line)
    others = [name for name in figures.by_class if name not in with_objects]
    if others:
        more = len(others) - _NAMES_SHOWN
        names = ", ".join(others[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
        _print_line(console, f"{len(others)} of {len(figures.by_class)} classes have no objects here: {names}")


def _cells(figures: ClassFigures) -> list[str]:
    return [str(figures.objects), *(shown(getattr(figures, name)) for name in _CLASS_COLUMNS[1:])]


def _class_lines(classes: dict[str, ClassFigures]) -> Iterator[str]:
    width = max(len(name) for name in ("class", *classes))
    yield f"{'class':<{width}}" + "".join(f"  {column:>7}" for column in _CLASS_COLUMNS)
    for name, figures in classes.items():
        yield f"{name:<{width}}" + "".join(f"  {cell:>7}" for cell in _cells(figures))


def _classes_table(classes: dict[str, ClassFigures]) -> Table:
    table = Table()
    table.add_column("class", overflow="fold")
    for column in _CLASS_COLUMNS:
        table.add_column(column, justify="right", style="bold" if column == "AP" else "", no_wrap=True)
    for name, figures in classes.items():
        table.add_row(Text(name), *_cells(figures))
    return table
