"""What a run shows: the machine, the limits measured on it, one table a problem, and who was not there."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from codetr_kernels.backend import which_backend
from rich.console import Console
from rich.table import Table
from rich.text import Text

from codetr.bench.candidates import OURS, Absent, Candidate
from codetr.bench.ceilings import Ceilings
from codetr.bench.measuring import Row

PACKAGES = (
    *("codetr", "torch", "triton", "torchvision", "scipy", "transformers", "deformops", "mmcv"),
    *("torch-linear-assignment", "lapx", "scikit-learn"),
)
CHAIN_TITLES = {"op": "the operation alone", "whole": "softmax, locations, padding and the operation"}
WIDTH = 150  # columns where the output is no terminal


def machine(device: torch.device) -> dict[str, Any]:
    """Hardware and versions that the figures belong to."""
    found: dict[str, Any] = {
        "device": str(device),
        "hardware": _hardware(device),
        "backend": str(which_backend(device)),
    }
    found |= {"python": platform.python_version(), "cuda": torch.version.cuda, "hip": torch.version.hip}
    if device.type == "cpu":
        found["threads"] = torch.get_num_threads()
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return found | {"packages": versions}


def record(
    device: torch.device,
    ceilings: Ceilings,
    rows: Sequence[Row],
    candidates: Sequence[Candidate],
    absent: Sequence[Absent],
) -> dict[str, Any]:
    """Everything, for JSON."""
    return {
        "machine": machine(device),
        "ceilings": {"copy": ceilings.copy, "gather": {str(width): rate for width, rate in ceilings.gather.items()}},
        "candidates": {candidate.name: candidate.note for candidate in candidates},
        "absent": {peer.name: peer.reason for peer in absent},
        "rows": [row.as_dict() for row in rows],
    }


def console() -> Console:
    """Standard output, wide enough for the tables where it is no terminal."""
    made = Console(highlight=False)
    if not made.is_terminal:
        made.width = WIDTH
    return made


def print_machine(out: Console, device: torch.device) -> None:
    """The lines above the tables."""
    found = machine(device)
    versions = ", ".join(f"{name} {version}" for name, version in found["packages"].items() if version)
    out.print(Text(f"{found['hardware']}; Python {found['python']}, {versions}"))
    if device.type == "cpu":
        out.print(Text("There is no GPU here: the CPU paths are timed."))
    else:
        out.print(Text(f"codetr runs {found['backend']}"))


def print_ceilings(out: Console, ceilings: Ceilings) -> None:
    """What the shares are shares of."""
    gathers = ", ".join(f"{rate / 1e9:,.1f} GB/s by rows of {width} B" for width, rate in ceilings.gather.items())
    out.print(Text(f"copy: {ceilings.copy / 1e9:,.1f} GB/s; random reads: {gathers}"))


def print_people(out: Console, candidates: Sequence[Candidate], absent: Sequence[Absent]) -> None:
    """Who is measured, and who is not and why."""
    for candidate in candidates:
        out.print(Text(f"  {candidate.name:<15} {candidate.note}"))
    for peer in absent:
        out.print(Text(f"  {peer.name:<15} absent: {peer.reason}", "dim"))


def print_rows(out: Console, rows: Sequence[Row], problem: str) -> None:
    """The table of one problem and chain."""
    title = Text(f"\n{problem}: {CHAIN_TITLES[rows[0].chain]}", "bold")
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("worst error", "forward ms", "p95", "of copy", "of reads", "fwd+bwd ms", "p95", "backward", "of copy"):
        table.add_column(name, justify="right")
    table.add_column("peak MiB", justify="right")
    table.add_column("GB/s fwd, both", justify="right")
    for row in rows:
        style = "bold" if row.candidate == OURS else ""
        table.add_row(*(Text(cell, style) for cell in _cells(row)))
    out.print(table)
    for row in rows:
        if row.status != "timed":
            out.print(
                Text(f"  {row.candidate}: {row.status}: {row.reason}", "red" if row.status != "left out" else "dim")
            )


def _cells(row: Row) -> list[str]:
    if row.forward is None or row.step is None or row.backward is None:
        return [row.candidate, worst(row), row.status]
    assert row.forward_rate is not None
    assert row.step_rate is not None
    return [
        row.candidate,
        worst(row),
        milliseconds(row.forward.median),
        milliseconds(row.forward.p95),
        percent(row.forward_of_copy),
        percent(row.forward_of_gather),
        milliseconds(row.step.median),
        milliseconds(row.step.p95),
        milliseconds(row.backward),
        percent(row.step_of_copy),
        "" if row.peak_memory is None else f"{row.peak_memory / 2**20:,.0f}",
        f"{row.forward_rate / 1e9:,.1f}, {row.step_rate / 1e9:,.1f}",
    ]


def worst(row: Row) -> str:
    """The error that is largest beside its limit, and whose it is."""
    shares = {name: error / row.limits[name] for name, error in row.errors.items() if name in row.limits}
    if not shares:
        return ""
    name = max(shares, key=lambda key: float("inf") if shares[key] != shares[key] else shares[key])
    return f"{row.errors[name]:.0e} {name}"


def milliseconds(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def percent(share: float | None) -> str:
    """Blank for what was not measured."""
    return "" if share is None else f"{100 * share:.3g} %"


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.multi_processor_count} SMs, {properties.total_memory / 2**30:.0f} GiB"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor} (CPU), {os.cpu_count()} cores, {torch.get_num_threads()} threads"
