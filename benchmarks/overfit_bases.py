"""Can every base learn eight pictures by heart, alone and with ATSS and Faster-RCNN heads?

    python benchmarks/overfit_bases.py --minutes 5
    python benchmarks/overfit_bases.py --bases deformable_detr dino --heads alone --threads 2

A base passes when its AP50 on the pictures that it trains on exceeds 0.9 within the budget of steps and minutes. Writes
benchmarks/results/overfit_bases.{json,md}. Sizes: `_small_bases.py`; rendered scenes; AdamW, a constant rate after a
warm-up, every picture in every step.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from _common import environment, write
from _small_bases import Size, small_spec

from codetr import zoo
from codetr.data.coco import open_split
from codetr.data.collate import collate
from codetr.data.config import DataConfig
from codetr.data.transforms import build_transform
from codetr.evaluation.runner import evaluate_model
from codetr.evaluation.truth import GroundTruth
from codetr.models.build import build
from codetr.registry import names
from codetr.structures import Batch

GOAL = 0.9
HEADS = {"alone": False, "with heads": True}


def fragments() -> list[str]:
    """The bases of the zoo: every base by its name, and its other forms."""
    return [name.removeprefix("bases/") for name in zoo.names() if name.startswith("bases/")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="+", default=names("bases"), choices=fragments())
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=list(HEADS))
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--side", type=int, default=160, help="of a picture, in pixels")
    parser.add_argument("--steps", type=int, default=1500, help="at most so many of each training")
    parser.add_argument("--minutes", type=float, default=5.0, help="at most so long for each training")
    parser.add_argument("--every", type=int, default=50, help="steps from one evaluation to the next")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data", type=Path, default=Path("runs/data/overfit_bases"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    batch, truth = pictures(options.data / f"{options.pictures}x{options.side}", options.pictures, options.side)
    runs = []
    for base in options.bases:
        for heads in options.heads:
            runs.append({"base": base, "heads": heads, **overfit(base, HEADS[heads], batch, truth, options)})
            print(_row(runs[-1]), flush=True)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    record = {"environment": environment(), "size": asdict(Size()), "settings": settings, "runs": runs}
    write("overfit_bases", record, _table(runs, options))


def pictures(folder: Path, count: int, side: int) -> tuple[Batch, GroundTruth]:
    """Rendered scenes as one batch, and what is to be found on them."""
    data = DataConfig.model_validate(
        {
            "dir": folder,
            "synthetic": {"train": count, "val": 1, "size": side, "seed": 0, "crowds": 0.0},
            "augment": None,
            "resize": {"size": side, "max_size": side},
        }
    )
    dataset = open_split(data, "train")
    transform = build_transform(data, "train")
    batch = collate([transform(dataset[index], seed=0) for index in range(len(dataset))])
    return batch, GroundTruth.load(dataset.annotations)


def overfit(base: str, heads: bool, batch: Batch, truth: GroundTruth, options: argparse.Namespace) -> dict[str, Any]:
    """Train until the goal or the end of the budget; losses by evaluation, AP50 of the decoder's branch."""
    torch.manual_seed(options.seed)
    model = build(small_spec(base, heads=heads, size=Size()), len(truth.names)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=1e-4)
    curve: list[dict[str, float]] = []
    began = time.perf_counter()
    passed = False
    for step in range(1, options.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = options.lr * min(1.0, step / 20)
        loss = torch.stack(list(model(batch.images, batch.targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        over = (time.perf_counter() - began) / 60 > options.minutes
        if step in (1, options.steps) or step % options.every == 0 or over:
            figures = evaluate_model(model, [batch], truth=truth, category_ids=truth.category_ids)["bbox"]
            curve.append({"step": step, "loss": loss.item(), "AP50": figures.AP50, "AP": figures.AP})
            passed = figures.AP50 > GOAL
        if passed or over:
            break
    seconds = time.perf_counter() - began
    return {"passed": passed, "steps": step, "seconds": seconds, "curve": curve}


def _table(runs: list[dict[str, Any]], options: argparse.Namespace) -> str:
    rows = [
        f"# {options.pictures} rendered pictures of {options.side} pixels, learned by heart\n",
        f"Passed: AP50 above {GOAL} on these pictures within {options.steps} steps and {options.minutes:g} minutes.\n",
        "| base | heads | passed | steps | minutes | loss: first, last | AP50 | AP |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(run) for run in runs),
    ]
    return "\n".join(rows) + "\n"


def _row(run: dict[str, Any]) -> str:
    first, last = run["curve"][0], run["curve"][-1]
    return (
        f"| {run['base']} | {run['heads']} | {'yes' if run['passed'] else '**no**'} | {run['steps']} | "
        f"{run['seconds'] / 60:.1f} | {first['loss']:.1f}, {last['loss']:.1f} | {last['AP50']:.2f} | {last['AP']:.2f} |"
    )


if __name__ == "__main__":
    main()
