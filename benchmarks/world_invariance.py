"""One global batch on 1, 2 and 4 processes: losses, gradients and weights over twenty steps.

    python benchmarks/world_invariance.py [--processes 2 4] [--parallel ddp fsdp] [--out FOLDER]

Co-Deformable-DETR and Co-DINO, small enough for CPUs, each with an ATSS and a Faster-RCNN head, on rendered pictures of
one size without dropout: what is left to differ is the order of float32 sums. Every run is compared with the one on one
process. The processes are torchrun's, on this machine. Writes benchmarks/results/world_invariance.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from _common import environment, write

STEPS, BATCH, LR = 20, 8, 2e-4
RCNN = {"rpn": {"channels": 32, "train_candidates": 100, "train_proposals": 60}, "roi": {"hidden": 64, "samples": 64}}
BASE = {"num_queries": 30, "encoder_layers": 1, "decoder_layers": 2, "num_heads": 4, "ffn_dim": 64, "dropout": 0.0}
MODELS = {
    "Co-Deformable": ("bases/deformable_detr_pp", {}),
    "Co-DINO": ("bases/dino", {"denoising": {"queries": 20}}),
}
SAME = 1e-5
"""Of the first step: a loss is behind some hundred float32 operations in a row, each with a relative error of 6e-8."""
LATER = 1e-3
"""Of the last one: what differs is fed back, and Adam divides a gradient by its size, be it nothing but rounding."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--parallel", nargs="+", choices=["ddp", "fsdp"], default=["ddp", "fsdp"])
    parser.add_argument("--out", type=Path, help="folder for the runs; default: a temporary one")
    parser.add_argument("--train", nargs=2, metavar=("SPEC", "RUN"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        return _train(*options.train)
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        rows = [row for model in MODELS for row in _rows(model, options.processes, options.parallel, out)]
    record = {
        "environment": environment(),
        "steps": STEPS,
        "batch": BATCH,
        "tolerance": {"first": SAME, "last": LATER},
        "rows": rows,
    }
    write("world_invariance", record, _table(rows))


def _rows(model: str, processes: list[int], parallel: list[str], out: Path) -> list[dict[str, Any]]:
    alone = _run(model, 1, "ddp", out)
    rows = []
    for kind in parallel:
        for count in processes:
            if count > 1:
                rows.append({"model": model, "parallel": kind, "processes": count})
                rows[-1] |= _compared(_run(model, count, kind, out), alone)
    return rows


def _run(model: str, processes: int, parallel: str, out: Path) -> Path:
    """The folder of a finished training."""
    run = out / f"{model}-{parallel}-{processes}"
    spec = out / f"{model}-{parallel}.json"
    spec.parent.mkdir(parents=True, exist_ok=True)
    spec.write_text(json.dumps(_spec(model, parallel, out)))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), __file__, "--train", str(spec), str(run)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"{model} with {parallel} on {processes} processes failed:\n{done.stderr}")
    return run


def _spec(model: str, parallel: str, out: Path) -> dict[str, Any]:
    base, settings = MODELS[model]
    return {
        "extends": [base, "backbones/resnet50"],
        "base": BASE | settings,
        "backbone": {
            "model": "resnet10t",
            "pretrained": False,
            "frozen_stages": -1,
            "options": {"channels": [16, 16, 32, 32], "stem_width": 16},
        },
        "neck": {"dim": 32, "num_groups": 4, "num_levels": 3},
        "heads": {"atss": {}, "faster_rcnn": RCNN},
        "data": {
            "dir": str(out / "data"),
            "synthetic": {"train": STEPS * BATCH, "val": 1, "size": 128, "objects": [0, 6]},
            "augment": {"scales": [128], "max_size": 128, "crop": None},
            "workers": 0,
        },
        "train": {
            "epochs": 1,
            "batch_size": BATCH,
            "lr": LR,
            "milestones": [],
            "device": "cpu",
            "threads": 1,
            "log_every": 1,
            "eval_every": None,
            "preflight": False,
            "parallel": parallel,
        },
    }


def _train(spec: str, run: str) -> None:
    from codetr.api import train

    train(json.loads(Path(spec).read_text()), out=run)


def _compared(run: Path, alone: Path) -> dict[str, Any]:
    """Relative differences of losses and gradient norms, and of all weights together."""
    from codetr.engine.checkpoint import read_weights
    from codetr.engine.run_folder import RunFolder

    ours, theirs = _records(run), _records(alone)
    assert len(ours) == len(theirs) == STEPS
    mine, other = (
        torch.cat([value.flatten().double() for _, value in sorted(read_weights(RunFolder(path).last).items())])
        for path in (run, alone)
    )
    found = {
        "first_loss": _apart(ours[0]["losses"], theirs[0]["losses"]),
        "first_norm": abs(ours[0]["grad_norm"] / theirs[0]["grad_norm"] - 1),
        "last_loss": _apart(ours[-1]["losses"], theirs[-1]["losses"]),
        "weights": ((mine - other).norm() / other.norm()).item(),
        "largest": (mine - other).abs().max().item(),
    }
    same = max(found["first_loss"], found["first_norm"]) <= SAME and max(found["last_loss"], found["weights"]) <= LATER
    return {**found, "passed": same}


def _records(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "train"]


def _apart(ours: dict[str, float], theirs: dict[str, float]) -> float:
    """The largest relative difference of a term; of a term below 1e-3 the difference over 1e-3."""
    assert set(ours) == set(theirs)
    return max(abs(ours[name] - theirs[name]) / max(1e-3, abs(theirs[name])) for name in ours)


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"# A batch of {BATCH} images on several processes, against the same on one\n",
        f"Relative differences, the largest of all loss terms; {STEPS} steps of AdamW at a learning rate of {LR:g}.\n",
        "| model | parallel | processes | first losses | first gradient norm | last losses | all weights | "
        "largest difference of a weight | passed |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {row['model']} | {row['parallel']} | {row['processes']} | {row['first_loss']:.1e} | "
            f"{row['first_norm']:.1e} | {row['last_loss']:.1e} | {row['weights']:.1e} | {row['largest']:.1e} | "
            f"{'yes' if row['passed'] else 'no'} |"
            for row in rows
        ),
        "",
        f"Passed: losses and gradient norm of the first step within {SAME:g} (float32 sums in another order), losses "
        f"of the last step and all weights together within {LATER:g} (what differs is fed back, and Adam divides a "
        "gradient by its size, also one that is nothing but rounding).\n",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
