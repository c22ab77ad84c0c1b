"""Repeat-factor sampling and the federated loss on a long-tailed set, over seeds, in the same number of steps.

    python benchmarks/long_tail.py --jobs 2

Hypothesis, before the first run: repeat-factor sampling raises APr, and so does the federated loss.

Trains Co-Deformable-DETR of the size of zoo/quickstart.yaml on rendered scenes of 60 classes in federated annotations
(`codetr data synth --lvis`), evaluated by the rules of LVIS. The groups are those of the set's own limits: rare classes
are in at most 12 of its 1000 images, frequent ones in more than 60. The threshold of the sampling is such that an epoch
has half as many images again, and two thirds of the epochs make as many steps. Each of the `jobs` trainings side by
side has its share of the threads; the ones that are complete under --out are not run again. Writes
benchmarks/results/long_tail.{json,md}.
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

from codetr.data.coco import open_split
from codetr.data.sampling import repeat_factors
from codetr.spec import load_spec

IMAGES, LONGER, EPOCHS = 1000, 1.5, 12
SET = (
    "data.synthetic={train: 1000, val: 400, size: 96, seed: 0, objects: [1, 6], long_tail: {classes: 60, "
    "exponent: 1.6, least: 4, val_least: 14, rare: 12, common: 60}}"
)
SIZE = ("data.augment.scales=[96]", "data.augment.max_size=96", "data.resize.size=96", "data.resize.max_size=96")
FEDERATED = ("criterion.federated=true", "heads.atss.federated=true", "data.federated={classes: 10, power: 0.5}")
VARIANTS = ("plain", "repeat factors", "federated loss", "both")
FIGURES = ("AP", "APr", "APc", "APf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/long_tail"))
    options = parser.parse_args()
    common = [f"data.dir={options.out / 'data'}", SET, *SIZE, "eval.max_detections=300", "eval.batch_size=20"]
    threshold, groups = _prepare(common)
    pairs = [(variant, seed) for seed in options.seeds for variant in VARIANTS]
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = list(pool.map(lambda pair: _train(*pair, common=common, threshold=threshold, options=options), pairs))
    record = {"environment": environment(), "threshold": threshold, "groups": groups, "overrides": common, "runs": runs}
    write("long_tail", record, _table(runs, threshold, groups))


def _prepare(common: list[str]) -> tuple[float, dict[str, int]]:
    """Renders the set; the threshold at which its epochs are `LONGER`, and the number of classes of each group."""
    data = open_split(load_spec("zoo/quickstart.yaml", common).data, "train")
    shown = data.image_classes()
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(repeat_factors(shown, threshold=middle)) < LONGER * IMAGES else (low, middle)
    categories = json.loads(data.annotations.read_text())["categories"]
    frequencies = [category["frequency"] for category in categories]
    return high, {group: frequencies.count(group) for group in "rcf"}


def _train(
    variant: str, seed: int, *, common: list[str], threshold: float, options: argparse.Namespace
) -> dict[str, Any]:
    """One training and its last evaluation."""
    repeats = variant in ("repeat factors", "both")
    epochs = round(EPOCHS / LONGER) if repeats else EPOCHS
    settings = [*common, f"train.epochs={epochs}", f"train.eval_every={epochs}", f"train.seed={seed}"]
    settings += [f"data.repeat.threshold={threshold}"] if repeats else []
    settings += FEDERATED if variant in ("federated loss", "both") else []
    settings += [f"train.threads={max(1, (os.cpu_count() or 1) // options.jobs)}", "data.workers=0"]
    out = options.out / f"{variant.replace(' ', '_')}_{seed}"
    if not _evaluations(out):
        command = [sys.executable, "-m", "codetr.cli.main", "train", "zoo/quickstart.yaml", *settings]
        subprocess.run([*command, "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    last = _evaluations(out)[-1]
    return {"variant": variant, "seed": seed, "step": last["step"], **{name: last[name] for name in FIGURES}}


def _evaluations(run: Path) -> list[dict[str, Any]]:
    metrics = run / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else []
    return [line for line in lines if line["kind"] == "eval"]


def _table(runs: list[dict[str, Any]], threshold: float, groups: dict[str, int]) -> str:
    seeds = len({run["seed"] for run in runs})
    rows = [
        "# Long tail: repeat-factor sampling and the federated loss\n",
        f"Co-Deformable-DETR of quickstart's size on 1000 rendered images of 60 classes ({groups['r']} rare, in "
        f"at most 12 images; {groups['c']} common; {groups['f']} frequent, in more than 60), evaluated on 400 by the "
        "rules of LVIS with 300 detections. These limits are not LVIS's, and these are no LVIS figures.",
        f"Repeat factors of threshold {threshold:.4f}; 10 of the 60 classes count in an image's federated loss.",
        f"Mean of {seeds} seeds (lowest to highest).\n",
        "| training | steps | " + " | ".join(FIGURES) + " |",
        "|---|---|" + "---|" * len(FIGURES),
    ]
    for variant in VARIANTS:
        own = [run for run in runs if run["variant"] == variant]
        cells = [_cell([100 * run[name] for run in own]) for name in FIGURES]
        rows.append(f"| {variant} | {own[0]['step']} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _cell(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
