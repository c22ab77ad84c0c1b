"""What does each one-to-many head learn as the only one beside a base? AP50 of its own branch, and of the decoder's.

    python benchmarks/heads_alone.py --jobs 2
    python benchmarks/heads_alone.py --heads gfl paa --seeds 0 1 2 train.epochs=12

Trains SPEC (zoo/quickstart.yaml) with one head of the zoo at a time for a few epochs on scenes that it renders itself,
evaluates both branches (paper, Table 11), Mask-RCNN's masks too, and writes benchmarks/results/heads_alone.{json,md}.
Trainings that are complete under --out are not run again: for other settings choose another folder.
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

from codetr.registry import names

HEADS = ["atss", "retinanet", "fcos", "paa", "gfl", "faster_rcnn", "mask_rcnn"]
SHORT = ["train.epochs=6", "train.eval_every=6"]
NARROW = "rpn: {channels: 96, train_proposals: 300}, roi: {hidden: 256, samples: 128}"
SMALL = {"faster_rcnn": f"{{{NARROW}}}", "mask_rcnn": f"{{{NARROW}, mask: {{channels: 96}}}}"}
"""Settings of heads whose defaults are too wide for a base of 96 channels."""
NEEDS = {"mask_rcnn": ["data.masks=true"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--spec", default="zoo/quickstart.yaml")
    parser.add_argument("--heads", nargs="+", default=HEADS, choices=names("heads"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/heads_alone"))
    options = parser.parse_args()
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    pairs = [(head, seed) for head in options.heads for seed in options.seeds]
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = list(pool.map(lambda pair: _run(*pair, options=options, threads=threads), pairs))
    overrides = [*SHORT, *options.overrides]
    record = {"environment": environment(), "spec": options.spec, "overrides": overrides, "runs": runs}
    write("heads_alone", record, _table(options.spec, overrides, runs))


def _run(head: str, seed: int, *, options: argparse.Namespace, threads: int) -> dict[str, Any]:
    """One training, and the figures of both branches."""
    out = options.out / f"{head}_{seed}"
    found = {}
    for branch in (head, "detr"):
        figures = out / f"{branch}.json"
        if not figures.is_file():
            if branch == head:
                own = [*NEEDS.get(head, []), f"train.seed={seed}", f"train.threads={threads}"]
                settings = [*SHORT, *options.overrides, *own]
                _codetr("train", options.spec, f"heads={{{head}: {SMALL.get(head, '{}')}}}", *settings, "--out", out)
            _codetr("eval", out, "--branch", branch, "--json", figures)
        found[branch] = json.loads(figures.read_text())
    figures_of = {"branch": found[head], "decoder": found["detr"], "masks": found[head].get("segm")}
    kept = {
        name: None if figures is None else {key: figures[key] for key in ("AP", "AP50")}
        for name, figures in figures_of.items()
    }
    return {"head": head, "seed": seed, "threads": threads, **kept}


def _codetr(*arguments: object) -> None:
    command = [sys.executable, "-m", "codetr.cli.main", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _table(spec: str, overrides: list[str], runs: list[dict[str, Any]]) -> str:
    seeds = len({run["seed"] for run in runs})
    rows = [
        "# Each head alone beside its base\n",
        f"`{spec}` with {', '.join(f'`{entry}`' for entry in overrides)}; mean of {seeds} seed(s), times 100.\n",
        "| head | AP50 of its branch | AP | AP50 of its masks | AP | AP50 of the decoder | AP |",
        "|---|---|---|---|---|---|---|",
    ]
    for head in dict.fromkeys(run["head"] for run in runs):
        own = [run for run in runs if run["head"] == head]
        cells = [
            _mean([run[part] for run in own], figure)
            for part in ("branch", "masks", "decoder")
            for figure in ("AP50", "AP")
        ]
        rows.append(f"| {head} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _mean(figures: list[dict[str, float] | None], name: str) -> str:
    found = [figure[name] for figure in figures if figure is not None]
    return f"{100 * statistics.mean(found):.1f}" if found else ""


if __name__ == "__main__":
    main()
