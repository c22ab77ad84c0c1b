"""Everything that is to be known of the kernels on this GPU: their tests, then the benchmarks with their charts.

    python benchmarks/kernels.py                                 on a GPU, within ten minutes
    python benchmarks/kernels.py --quick --results FOLDER        small problems, on a CPU as well

Writes benchmarks/results/kernels_<gpu>.{json,md,png} of deformable attention, and assignment_<gpu>.{json,md,png} of
matching, boxes, losses, assigners and suppression, with their share of a training step. The tests come first, and where
they fail nothing is timed. What does not fit the time is listed as left out; what matters most comes first.
"""

from __future__ import annotations

import argparse
import io
import itertools
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import _common
import torch
from rich.console import Console

from codetr.bench import report
from codetr.bench.assignment import measuring as assignment
from codetr.bench.assignment import picture, selection
from codetr.bench.assignment.step import describe, measure_shares
from codetr.bench.assignment.tables import print_op
from codetr.bench.candidates import OURS, find_candidates
from codetr.bench.ceilings import measure_ceilings
from codetr.bench.chart import draw, require_matplotlib
from codetr.bench.measuring import Row, grouped, run
from codetr.bench.problems import select

PATTERNS = ("encoder-l4-b2-*", "decoder900-l4-b2-*", "encoder-l5-b2-*", "decoder300-l4-b2-*", "*-b1-bf16", "*-b8-bf16")
"""By importance: the time may not suffice for the last ones."""

TESTS_SHARE = 0.6
"""Of the time, at most."""

ASSIGNMENT_SHARE = 0.2
"""Of the time, kept for the operations beside deformable attention."""

COMPILED = ("encoder-l4-b2-*", "decoder900-l4-b2-*")
"""Where torch.compile of the reference is measured too: each problem costs it a compilation or four."""

COMPILED_CASES = ("cost-7x2x900x60", "focal-44446x80-fp32", "ciou_loss-10000")
"""The same of the other operations."""

OPS = ("linear_assignment", "matching_cost", "assigners", "losses", "nms", "boxes")
"""These by importance."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float, default=570, help="for everything together")
    parser.add_argument("--without-tests", action="store_true", help="where they have passed already")
    parser.add_argument("--results", type=Path, default=_common.RESULTS)
    options = parser.parse_args()
    require_matplotlib()
    end = time.monotonic() + options.seconds
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if device.type != "cuda":
        tests = "not run: there is no GPU"
    else:
        tests = "not run" if options.without_tests else _run_tests(seconds=TESTS_SHARE * options.seconds)
    _common.RESULTS = options.results
    attention_end = end - ASSIGNMENT_SHARE * options.seconds
    is_right = _attention(device, attention_end, tests, quick=options.quick)
    is_right &= _assignment(device, end, tests, quick=options.quick)
    if not is_right:
        sys.exit("codetr is wrong somewhere; see the lines above")


def _attention(device: torch.device, end: float, tests: str, *, quick: bool) -> bool:
    """Measure deformable attention and write its results; whether ours is right."""
    record, text = _measure(device, end, quick=quick)
    record = {"environment": _common.environment(), "tests": tests, **record}
    hardware, name = _names("kernels", device)
    rows = record.pop("timed")
    record["rows"] = [row.as_dict() for row in rows]
    _common.write(name, record, f"# The kernels on {hardware}\n\ntests: {tests}\n\n```text\n{text}```\n")
    for against in ("original-style", "reference"):
        if any(row.candidate == against and row.status == "timed" for row in rows):
            draw(rows, _common.RESULTS / f"{name}.png", against=against, subtitle=record["machine"]["hardware"])
            break
    return not any(row.candidate == OURS and row.status in ("wrong", "failed") for row in rows)


def _assignment(device: torch.device, end: float, tests: str, *, quick: bool) -> bool:
    """Measure the other operations and their share of a step, and write the results; whether ours are right."""
    out = Console(file=io.StringIO(), width=report.WIDTH, highlight=False)
    report.print_machine(out, device)
    step, works = _step_shares(device, out)
    rows: list[assignment.Row] = []
    for op in OPS:
        cases = selection.select([op], [], device=device, quick=quick)
        found: list[assignment.Row] = []
        for case in cases:
            without = () if case.name in COMPILED_CASES and device.type == "cuda" else ("compiled",)
            left = end - time.monotonic()
            found += itertools.chain(*assignment.run([case], device, quick=quick, without=without, seconds=left))
        print_op(out, cases, found)
        rows += found
    assert isinstance(out.file, io.StringIO)
    hardware, name = _names("assignment", device)
    record = {
        "environment": _common.environment(),
        "tests": tests,
        "machine": report.machine(device),
        "step": step,
        "rows": [row.as_dict() for row in rows],
    }
    title = f"# Matching, assignment, losses and suppression on {hardware}"
    _common.write(name, record, f"{title}\n\ntests: {tests}\n\n```text\n{out.file.getvalue()}```\n")
    shown = picture.bars(rows)
    if shown:
        picture.draw(shown, _common.RESULTS / f"{name}.png", subtitle=record["machine"]["hardware"])
    return works and not any(row.is_defect for row in rows)


def _step_shares(device: torch.device, out: Console) -> tuple[list[dict[str, Any]] | str, bool]:
    """The shares of a training step and True; or why there are none and False: the other figures are written still."""
    try:
        shares = measure_shares(device)
    except Exception as error:
        out.print(f"step of training: failed: {type(error).__name__}: {error}")
        return f"failed: {type(error).__name__}: {error}", False
    out.print("a step of training a small Co-DETR, by what its matching, assignment and suppression run:")
    for line in describe(shares):
        out.print(f"  {line}")
    return [share.as_dict() for share in shares], True


def _names(family: str, device: torch.device) -> tuple[str, str]:
    """The hardware, and what the files of a family are called."""
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    return hardware, f"{family}_" + re.sub(r"[^a-z0-9]+", "_", hardware.lower()).strip("_")


def _run_tests(seconds: float) -> str:
    """pytest's last line; ends the script if a test fails or they are not done in time."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        sys.exit(
            f"the GPU tests were not done after {seconds:.0f} s. Their kernels stay compiled: run this again; or "
            "run pytest -m gpu by itself and this with --without-tests"
        )
    print(done.stdout)
    if done.returncode:
        sys.exit(f"the GPU tests failed, so nothing is timed\n{done.stderr}")
    return done.stdout.strip().splitlines()[-1]


def _measure(device: torch.device, end: float, *, quick: bool) -> tuple[dict[str, Any], str]:
    """The record, with the rows under `timed`, and what the terminal shows."""
    candidates, absent = find_candidates(device)
    out = Console(file=io.StringIO(), width=report.WIDTH, highlight=False)
    report.print_machine(out, device)
    report.print_people(out, candidates, absent)
    ceilings = measure_ceilings(device, quick=quick)
    report.print_ceilings(out, ceilings)
    is_small = quick or device.type == "cpu"
    compiled = {problem.name for problem in select([] if is_small else COMPILED, device=device, quick=quick)}
    rows: list[Row] = []
    seen: set[str] = set()
    for pattern in [()] if is_small else [(pattern,) for pattern in PATTERNS]:
        for problem in select(pattern, device=device, quick=quick):
            if problem.name in seen:
                continue
            seen.add(problem.name)
            people = [c for c in candidates if c.name != "compiled" or (problem.name in compiled and not is_small)]
            left = end - time.monotonic()
            for _, group in grouped(run([problem], people, ceilings, device, quick=quick, seconds=left)):
                report.print_rows(out, group, problem.name)
                rows += group
    assert isinstance(out.file, io.StringIO)
    return {**report.record(device, ceilings, rows, candidates, absent), "timed": rows}, out.file.getvalue()


if __name__ == "__main__":
    main()
