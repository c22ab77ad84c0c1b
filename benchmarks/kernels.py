"""Everything that is to be known of the kernels on this GPU: their tests, then the benchmark with its chart.

    python benchmarks/kernels.py                                 on a GPU, within ten minutes
    python benchmarks/kernels.py --quick --results FOLDER        two small problems, on a CPU as well

Writes benchmarks/results/kernels_<gpu>.{json,md,png}. The tests come first, and where they fail nothing is timed. What
does not fit the time is listed as left out; the problems that matter most come first.
"""

from __future__ import annotations

import argparse
import io
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
from codetr.bench.candidates import OURS, find_candidates
from codetr.bench.ceilings import measure_ceilings
from codetr.bench.chart import draw, require_matplotlib
from codetr.bench.measuring import Row, grouped, run
from codetr.bench.problems import select

PATTERNS = ("encoder-l4-b2-*", "decoder900-l4-b2-*", "encoder-l5-b2-*", "decoder300-l4-b2-*", "*-b1-bf16", "*-b8-bf16")
"""By importance: the time may not suffice for the last ones."""

TESTS_SHARE = 0.6
"""Of the time, at most."""

COMPILED = ("encoder-l4-b2-*", "decoder900-l4-b2-*")
"""Where torch.compile of the reference is measured too: each problem costs it a compilation or four."""


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
    record, text = _measure(device, end, quick=options.quick)
    record = {"environment": _common.environment(), "tests": tests, **record}
    _common.RESULTS = options.results
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    name = "kernels_" + re.sub(r"[^a-z0-9]+", "_", hardware.lower()).strip("_")
    rows = record.pop("timed")
    record["rows"] = [row.as_dict() for row in rows]
    _common.write(name, record, f"# The kernels on {hardware}\n\ntests: {tests}\n\n```text\n{text}```\n")
    for against in ("original-style", "reference"):
        if any(row.candidate == against and row.status == "timed" for row in rows):
            draw(rows, options.results / f"{name}.png", against=against, subtitle=record["machine"]["hardware"])
            break
    if any(row.candidate == OURS and row.status != "timed" and row.status != "left out" for row in rows):
        sys.exit("codetr is wrong somewhere; see the lines above")


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
