"""One spec with and without its heads, over seeds, in the same number of steps.

    python benchmarks/with_and_without_heads.py zoo/quickstart.yaml --name quickstart --seeds 0 1 2 --jobs 2

Runs `jobs` trainings side by side, each with its share of the threads, and writes benchmarks/results/NAME.{json,md}.
Trainings that are complete under --out are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _common import environment, write

VARIANTS = {"without heads": ["heads={}"], "with heads": []}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--name", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/with_and_without_heads"))
    options = parser.parse_args()
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    pairs = [(variant, seed) for seed in options.seeds for variant in VARIANTS]
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda pair: _train(*pair, options=options, threads=threads), pairs))
    record = {"environment": environment(), "spec": options.spec, "overrides": options.overrides, "runs": results}
    write(options.name, record, _table(options.name, results))


def _train(variant: str, seed: int, *, options: argparse.Namespace, threads: int) -> dict[str, Any]:
    """One training; its last evaluation and the mean rate of its steps."""
    out = options.out / options.name / f"{variant.replace(' ', '_')}_{seed}"
    metrics = out / "metrics.jsonl"
    if not _evaluations(metrics):
        settings = [*options.overrides, *VARIANTS[variant], f"train.seed={seed}", f"train.threads={threads}"]
        command = [sys.executable, "-m", "codetr.cli.main", "train", options.spec, *settings, "--out", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    last = _evaluations(metrics)[-1]
    rates = [line["images_per_second"] for line in _lines(metrics) if "images_per_second" in line]
    return {
        "variant": variant,
        "seed": seed,
        "step": last["step"],
        "AP": last["AP"],
        "AP50": last["AP50"],
        "images_per_second": statistics.median(rates),
        "threads": threads,
    }


def _lines(metrics: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []


def _evaluations(metrics: Path) -> list[dict[str, Any]]:
    return [line for line in _lines(metrics) if line["kind"] == "eval"]


def _table(name: str, runs: list[dict[str, Any]]) -> str:
    rows = [
        f"# {name}: with and without heads\n",
        "| variant | steps | AP by seed | AP mean (spread) | AP50 mean | images/s of a job |",
        "|---|---|---|---|---|---|",
    ]
    for variant in VARIANTS:
        own = [run for run in runs if run["variant"] == variant]
        values = [100 * run["AP"] for run in own]
        spread = f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"
        rows.append(
            f"| {variant} | {own[0]['step']} | {', '.join(f'{value:.1f}' for value in values)} | {spread} | "
            f"{100 * statistics.mean(run['AP50'] for run in own):.1f} | "
            f"{statistics.mean(run['images_per_second'] for run in own):.1f} |"
        )
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
