"""What do accumulation, recomputation, bfloat16 and compilation cost and save? Peak memory and seconds of a step.

    python benchmarks/memory_and_time.py
    python benchmarks/memory_and_time.py co_deformable_r50 --size 800x1333 --batch-size 4 train.device=cuda

Trains SPEC (zoo/quickstart.yaml) for a few steps on rendered images with each setting of `train`, and with all of them
at once, each in a process of its own, in turns; writes benchmarks/results/memory_and_time.{json,md}. Memory on a CPU is
the resident set that the process grew by from before the model was made; on a GPU what PyTorch had allocated at most.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from _common import environment, write

from codetr.bench.step.alone import Request, measure_alone
from codetr.bench.step.subjects import WITH, WITHOUT
from codetr.spec import load_spec

SETTINGS = {
    "accumulate": "train.accumulate=2",
    "recompute": "train.recompute=[encoder.layers]",
    "bf16": "train.precision=bf16",
    "compile": "train.compile=true",
}
VARIANTS = {"plain": [], **{name: [setting] for name, setting in SETTINGS.items()}, "all": list(SETTINGS.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", nargs="?", default="zoo/quickstart.yaml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--size", default="256x256", metavar="HxW")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="memory_and_time", help="Of the files of results.")
    options = parser.parse_args()
    chosen = list(dict.fromkeys(["plain", *options.variants]))
    runs = [_run(name, number, options) for number in range(options.rounds) for name in chosen]
    settings = {key: value for key, value in vars(options).items() if key != "name"}
    record = {"environment": environment(), "settings": settings, "runs": runs}
    write(options.name, record, _table(options, chosen, runs))


def _run(name: str, number: int, options: argparse.Namespace) -> dict[str, Any]:
    """One process."""
    height, width = (int(side) for side in options.size.split("x"))
    given = [*options.overrides, f"train.batch_size={options.batch_size}", *VARIANTS[name]]
    spec = load_spec(options.spec, given)
    subject = WITH if spec.heads else WITHOUT
    request = Request(subject, spec, (height, width), steps=options.steps, warmup=options.warmup)
    print(f"round {number + 1} of {options.rounds}: {name}", flush=True)
    return {"variant": name, "round": number, **measure_alone(request)}


def _table(options: argparse.Namespace, chosen: list[str], runs: list[dict[str, Any]]) -> str:
    rows = [
        "# Memory and time of a training step\n",
        f"{' '.join(f'`{entry}`' for entry in (options.spec, *options.overrides))}, {options.batch_size} rendered "
        f"images of {options.size}; rounds: {options.rounds}, of {options.steps} steps after {options.warmup}. Memory: "
        "the largest peak; seconds: the median round's median step, and in brackets the least and the most.\n",
        "| setting | peak memory, MiB | of plain | seconds of a step | of plain |",
        "|---|---|---|---|---|",
    ]
    figures = {name: _figures([run for run in runs if run["variant"] == name]) for name in chosen}
    memory, (seconds, _, _) = figures["plain"]
    for name, (own_memory, (own, least, most)) in figures.items():
        settings = ", ".join(f"`{entry}`" for entry in VARIANTS[name])
        label = f"all ({settings})" if name == "all" else settings or "plain"
        spread = f"{own:.3f} ({least:.3f} to {most:.3f})"
        shares = f"{own_memory / memory:.2f} | {spread} | {own / seconds:.2f}"
        rows.append(f"| {label} | {own_memory / 2**20:,.0f} | {shares} |")
    return "\n".join(rows) + "\n"


def _figures(runs: list[dict[str, Any]]) -> tuple[int, tuple[float, float, float]]:
    """Peak bytes, and seconds: median, least, most."""
    seconds = [run["times"]["median"] / 1000 for run in runs]
    return max(run["peak_memory"] for run in runs), (statistics.median(seconds), min(seconds), max(seconds))


if __name__ == "__main__":
    main()
