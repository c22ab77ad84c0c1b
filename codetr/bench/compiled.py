"""What the compiler makes of the shipped configurations of the kernels, for a GPU that need not be there."""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from codetr.errors import UserError, suggestion

DEFAULT_TARGETS = "sm_80,sm_90"

ATTENTION = "deform_attention"
OPS = (ATTENTION, "linear_assignment", "matching_cost", "boxes", "losses", "assigners", "nms")
"""The packages of `codetr_kernels` with kernels."""


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


def compile_for(
    targets: Sequence[str], *, ops: Sequence[str] = OPS, keys: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """One row for each shipped variant of each target: what the compiler says, and for deformable attention also its
    configuration and the instructions a point.

    ops: of `OPS`. keys: of the configurations' tables of deformable attention, and of nothing else; default all.

    Raises:
        UserError: Triton is not installed.
    """
    if importlib.util.find_spec("triton") is None:
        raise UserError("--compile-only needs Triton, which is published for Linux: pip install triton")
    if ATTENTION in ops or keys is not None:
        yield from _attention(targets, keys)
    others = [op for op in ops if op != ATTENTION and keys is None]
    if not others:
        return
    work = [(op, target) for target in targets for op in others]
    # Spawned: a fork would copy whatever threads torch and Triton hold.
    with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for rows in pool.map(_rows_of, *zip(*work, strict=True)):
            yield from rows


def _attention(targets: Sequence[str], keys: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    from codetr_kernels.deform_attention.triton.inspection import rows

    for target in targets:
        for row in rows(target, keys=keys, processes=os.cpu_count() or 1):
            config = row.config._asdict()
            yield {**row.compiled.as_dict(), "config": config, "instructions_per_point": row.instructions_per_point}


def _rows_of(op: str, target: str) -> list[dict[str, Any]]:
    inspection = importlib.import_module(f"codetr_kernels.{op}.triton.inspection")
    return [row.as_dict() for row in inspection.rows(target)]


def print_compiled(out: Console, rows: Sequence[dict[str, Any]]) -> None:
    """The rows in tables, what spills in red: first those of tuned configurations, then the others."""
    for is_tuned in (True, False):
        chosen = [row for row in rows if ("config" in row) == is_tuned]
        if chosen:
            out.print(_table(chosen, is_tuned=is_tuned))


def _table(rows: Sequence[dict[str, Any]], *, is_tuned: bool) -> Table:
    table = Table(title=Text("compiled kernels", "bold"), title_justify="left")
    for column in ("kernel", "target", *(["bq, warps, unroll, tile"] if is_tuned else [])):
        table.add_column(column, no_wrap=True)
    for column in ("registers", "spills", "shared", "gather", *(["instr/point"] if is_tuned else [])):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("atomics", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell, "red" if row["spills"] else "") for cell in _cells(row, is_tuned=is_tuned)))
    return table


def _cells(row: dict[str, Any], *, is_tuned: bool) -> list[str]:
    per_point = row.get("instructions_per_point")
    return [
        row["name"],
        row["target"],
        *([", ".join(map(str, row["config"].values()))] if is_tuned else []),
        str(row["registers"]),
        str(row["spills"]),
        str(row["shared"]),
        f"{row['gather_bytes']} B",
        *(["" if per_point is None else f"{per_point:.0f}"] if is_tuned else []),
        ", ".join(f"{count} {name}" for name, count in row["atomics"].items()),
    ]
