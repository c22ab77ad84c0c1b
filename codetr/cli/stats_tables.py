"""The tables of `codetr data stats`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from codetr.cli.data_check import PLAIN_WIDTH
from codetr.cli.text import printable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from codetr.data.findings import Finding
    from codetr.data.statistics import SplitStatistics

HEAD, TAIL = 20, 10  # classes shown of a long table
EXAMPLES = 3
BAR = 30  # columns
FREQUENCY = {"r": "rare", "c": "common", "f": "frequent"}


def show(
    splits: Sequence[SplitStatistics], shared: Sequence[Sequence[Finding]], *, looked: bool, all_classes: bool
) -> None:
    """Print everything. shared: for each split but the first, its images that are or look like images of the first.

    looked: whether images were looked at.
    """
    from rich.console import Console

    from codetr.data.advice import advice
    from codetr.data.statistics import ASPECT_BINS, COUNT_BINS, histogram

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    for split in splits:
        line = f"{split.split}: {printable(str(split.file.path))}"
        for text in (line, *(f"  {printable(note)}" for note in split.file.notes)):
            console.print(text, markup=False, soft_wrap=True)
    console.print(_overview(splits))
    console.print(_classes(splits, all_classes=all_classes))
    console.print(_quantiles(splits))
    counts = [int(count) for split in splits for count in split.counts()]
    ratios = [float(ratio) for split in splits for ratio in split.aspects()]
    console.print(_bars("objects of an image", "images", histogram(counts, COUNT_BINS)))
    console.print(_bars("width / height of boxes", "boxes", histogram(ratios, ASPECT_BINS)))
    if looked:
        for found in _alike(splits, shared):
            console.print(found, soft_wrap=True)
    for sentence in advice(splits, shared):
        console.print(f"- {printable(sentence)}", markup=False, soft_wrap=True)


def _overview(splits: Sequence[SplitStatistics]) -> Table:
    from rich.table import Table

    table = Table("", *(split.split for split in splits))
    for column in table.columns[1:]:
        column.justify = "right"
    shares = [[f"{100 * share:.1f} %" for share in split.shares()] for split in splits]
    rows: list[tuple[str, list[object]]] = [
        ("images", [split.images for split in splits]),
        ("images without objects", [int((split.counts() == 0).sum()) for split in splits]),
        ("objects", [split.objects for split in splits]),
        ("crowd regions", [split.crowds for split in splits]),
        ("classes with objects", [_used(split) for split in splits]),
        ("small objects (area below 32 x 32)", [share[0] for share in shares]),
        ("medium objects", [share[1] for share in shares]),
        ("large objects (from 96 x 96)", [share[2] for share in shares]),
    ]
    for name, values in rows:
        table.add_row(name, *map(str, values))
    return table


def _used(split: SplitStatistics) -> str:
    return f"{sum(objects > 0 for objects, _ in split.per_class().values())} of {len(split.classes)}"


def _classes(splits: Sequence[SplitStatistics], *, all_classes: bool) -> Table:
    """Classes by number of objects in the first split, and in all of them where it has none."""
    from rich.table import Column, Table
    from rich.text import Text

    train = splits[0]
    per_split = [split.per_class() for split in splits]
    names = {identity: name for split in reversed(splits) for identity, name in split.classes.items()}
    zero = (0, 0)
    order = sorted(names, key=lambda i: ([-found.get(i, zero)[0] for found in per_split], i))
    left_out = 0 if all_classes or len(order) <= HEAD + TAIL + 5 else len(order) - HEAD - TAIL
    heads = [head for split in splits for head in (f"{split.split}: objects", "images")]
    table = Table("class", Column("id", justify="right"), *(Column(head, justify="right") for head in heads))
    table.add_column(f"share of {train.split}", justify="right")
    if train.frequency:
        table.add_column("group")
    for place, identity in enumerate(order):
        if left_out and HEAD <= place < len(order) - TAIL:
            if place == HEAD:
                table.add_row(Text(f"... {left_out} more classes: --all-classes shows them", "dim"))
            continue
        cells = []
        for found in per_split:
            cells += [_count(found[identity], part) if identity in found else Text("no class") for part in (0, 1)]
        share = per_split[0].get(identity, zero)[0] / max(1, train.objects)
        more = [FREQUENCY.get(train.frequency.get(identity, ""), "")] if train.frequency else []
        table.add_row(Text(printable(names[identity])), str(identity), *cells, f"{100 * share:.2f} %", *more)
    return table


def _count(found: tuple[int, int], part: int) -> Text:
    from rich.text import Text

    return Text(str(found[part]), "" if found[part] else "bold red")


def _quantiles(splits: Sequence[SplitStatistics]) -> Table:
    from rich.table import Column, Table

    from codetr.data.statistics import QUANTILES, quantile_rows

    names = {0: "least", 0.5: "median", 1: "most"}
    heads = [names.get(q, f"{100 * q:g} %") for q in QUANTILES]
    title = "all splits together" if len(splits) > 1 else ""
    table = Table(title, *(Column(head, justify="right") for head in heads))
    for name, values in quantile_rows(splits).items():
        table.add_row(name, *(_short(value) for value in values))
    return table


def _short(value: float) -> str:
    """Three figures, and never an exponent."""
    if value >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.3g}" if value >= 0.001 else f"{value:.1e}"


def _bars(title: str, unit: str, counts: Sequence[tuple[str, int]]) -> Table:
    from rich.table import Column, Table

    table = Table(Column(title, justify="right"), Column(unit, justify="right"), "share", "", box=None)
    total, most = sum(count for _, count in counts), max((count for _, count in counts), default=1)
    for name, count in counts:
        bar = "#" * round(BAR * count / most) or ("." if count else "")
        table.add_row(name, str(count), f"{100 * count / total:.1f} %", bar)
    return table


def _alike(splits: Sequence[SplitStatistics], shared: Sequence[Sequence[Finding]]) -> Iterator[Text]:
    """Findings about images, of each kind how many, and a few of them."""
    from rich.text import Text

    from codetr.data.findings import Kind

    for split, found in zip(splits, [[], *shared], strict=True):
        both = [*split.facts.findings, *found]
        for kind in Kind:
            chosen = [finding for finding in both if finding.kind is kind]
            if chosen:
                line = Text(f"{split.split}: {len(chosen)} {kind.title}", "yellow" if kind.level == "note" else "red")
                for finding in chosen[:EXAMPLES]:
                    line.append(f"\n    {printable(finding.file or finding.place())}: {printable(finding.detail)}", "")
                if len(chosen) > EXAMPLES:
                    line.append(f"\n    and {len(chosen) - EXAMPLES} more", "")
                yield line
