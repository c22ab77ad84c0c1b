"""What the compiler makes of the shipped configurations of the kernels, for a GPU that need not be there."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from codetr.errors import UserError, suggestion

DEFAULT_TARGETS = "sm_80,sm_90"


def parse_targets(text: str | None) -> tuple[str, ...]:
    """The targets of a list such as `sm_80,sm_90`; None is the default.

    Raises:
        UserError: the kernels have no configurations for one of them.
    """
    from codetr_kernels.deform_attention.triton.configs import ARCHITECTURES

    targets = tuple(target.strip() for target in (text or DEFAULT_TARGETS).split(","))
    for target in targets:
        if target not in ARCHITECTURES:
            raise UserError(f"--target {target}: not supported; {suggestion(target, ARCHITECTURES, kind='targets')}")
    return targets


def compile_for(targets: Sequence[str], *, keys: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """One row for each configuration of each target: what the compiler says, the configuration, instructions a point.

    keys: of the configurations' tables; default all.

    Raises:
        UserError: Triton is not installed.
    """
    if importlib.util.find_spec("triton") is None:
        raise UserError("--compile-only needs Triton, which is published for Linux: pip install triton")
    from codetr_kernels.deform_attention.triton.inspection import rows

    for target in targets:
        for row in rows(target, keys=keys, processes=os.cpu_count() or 1):
            config = row.config._asdict()
            yield {**row.compiled.as_dict(), "config": config, "instructions_per_point": row.instructions_per_point}


def print_compiled(out: Console, rows: Sequence[dict[str, Any]]) -> None:
    """The rows in one table, what spills in red."""
    table = Table(title=Text("compiled kernels", "bold"), title_justify="left")
    for column in ("kernel", "target", "bq, warps, unroll, tile"):
        table.add_column(column, no_wrap=True)
    for column in ("registers", "spills", "shared", "gather", "instr/point"):
        table.add_column(column, justify="right")
    table.add_column("atomics", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell, "red" if row["spills"] else "") for cell in _cells(row)))
    out.print(table)


def _cells(row: dict[str, Any]) -> list[str]:
    per_point = row["instructions_per_point"]
    return [
        row["name"],
        row["target"],
        ", ".join(map(str, row["config"].values())),
        str(row["registers"]),
        str(row["spills"]),
        str(row["shared"]),
        f"{row['gather_bytes']} B",
        "" if per_point is None else f"{per_point:.0f}",
        ", ".join(f"{count} {name}" for name, count in row["atomics"].items()),
    ]
