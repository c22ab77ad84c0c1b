"""An inspected assignment as data, and as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from codetr.inspection.assignment import MATCHED, Branch

_ROWS = 40
"""Objects that a table shows; the file has all."""


@dataclass(frozen=True)
class Inspection:
    """An image and what every branch calls positive in it.

    image: (3, H, W) uint8, the resized image. boxes: (G, 4) xyxy pixels of it. names: class of each object. file,
    model: for people, free of control characters.
    """

    image: Tensor
    boxes: Tensor
    names: tuple[str, ...]
    branches: tuple[Branch, ...]
    file: str
    model: str

    @property
    def labels(self) -> list[str]:
        """The objects: the number that the picture has, and the class."""
        return [f"{index} {name}" for index, name in enumerate(self.names, start=1)]

    def mean(self, branch: Branch) -> float:
        """Positives of a branch for each object."""
        return len(branch.objects) / max(1, len(self.names))


def printable(text: str) -> str:
    """A text of a file without what could move a terminal's cursor or colour it."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def title(branch: Branch) -> str:
    """A branch's name for people."""
    return "Hungarian matching" if branch.name == MATCHED else branch.name


def assignment_table(found: Inspection) -> Table:
    """A row for each object, a column for each branch."""
    table = Table(title=Text(f"positives in {found.file}"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("object", max_width=30, no_wrap=True)
    for branch in found.branches:
        table.add_column(Text("Hungarian" if branch.name == MATCHED else branch.name), justify="right")
    counts = [branch.counts(len(found.names)) for branch in found.branches]
    for label, *numbers in list(zip(found.labels, *counts, strict=True))[:_ROWS]:
        table.add_row(Text(label), *(Text(str(number), style="" if number else "red") for number in numbers))
    left = len(found.names) - _ROWS
    if left > 0:
        table.add_row(Text(f"and {left} more", style="dim"), *(str(sum(column[_ROWS:])) for column in counts))
    table.add_section()
    table.add_row("all", *(str(sum(column)) for column in counts), style="bold")
    table.add_row("an object", *(f"{found.mean(branch):.1f}" for branch in found.branches), style="bold")
    return table


def as_record(found: Inspection) -> dict[str, Any]:
    """Everything, for a JSON file: boxes in pixels of the resized image."""
    height, width = found.image.shape[1:]
    objects = [
        {"number": number, "name": name, "box": _rounded(row)}
        for number, (name, row) in enumerate(zip(found.names, found.boxes.tolist(), strict=True), start=1)
    ]
    return {
        "image": found.file,
        "model": found.model,
        "size": [height, width],
        "objects": objects,
        "branches": [_branch_record(branch, len(found.names)) for branch in found.branches],
    }


def _branch_record(branch: Branch, num_objects: int) -> dict[str, Any]:
    levels: Sequence[int | None] = [None] * len(branch.boxes) if branch.levels is None else branch.levels.tolist()
    rows = zip(branch.boxes.tolist(), branch.objects.tolist(), levels, strict=True)
    return {
        "name": branch.name,
        "kind": branch.kind,
        "strides": list(branch.strides),
        "sampled": branch.sampled,
        "counts": branch.counts(num_objects),
        "positives": [
            {"object": index + 1, "stride": None if level is None else branch.strides[level], "box": _rounded(row)}
            for row, index, level in rows
        ],
    }


def _rounded(numbers: Sequence[float]) -> list[float]:
    return [round(number, 2) for number in numbers]
