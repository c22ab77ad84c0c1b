"""`codetr bench step`: where the time of a training step goes, with heads and without."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from codetr.spec import Spec

STEPS = 10
SIDES = range(32, 4097)
RENDERED_IMAGES = 2
"""Images of a rendered batch: those of one GPU in the published recipe."""


class Size(click.ParamType):
    """Height and width in pixels."""

    name = "HxW"

    def convert(
        self, value: str | tuple[int, int], parameter: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d+)x(\d+)", value)
        if found is None or any(int(side) not in SIDES for side in found.groups()):
            self.fail(f"{value!r} is no size. Write height and width in pixels, 32 to 4096 each, such as 800x1333.")
        return int(found[1]), int(found[2])


@click.command("step")
@click.argument("spec", metavar="SPEC")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--steps", type=click.IntRange(min=1), default=STEPS, show_default=True, help="Counted steps of each.")
@click.option("--warmup", type=click.IntRange(min=1), default=3, show_default=True, help="Steps of each before them.")
@click.option("--size", type=Size(), metavar="HxW", help="Rendered images instead of the data of the spec.")
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Images of a step: train.batch_size.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="train.precision.")
@click.option("--compile", "compiled", is_flag=True, help="train.compile=true.")
@click.option("--device", metavar="NAME", help="train.device: cpu, cuda or cuda:N.")
@click.option("--peer", type=click.Choice(["transformers"]), help="Measure its model of the same sizes too.")
@click.option("--json", "json_file", type=Path, metavar="FILE", help="Write everything to a JSON file.")
def command(
    spec: str,
    overrides: tuple[str, ...],
    steps: int,
    warmup: int,
    size: tuple[int, int] | None,
    batch_size: int | None,
    precision: str | None,
    compiled: bool,
    device: str | None,
    peer: str | None,
    json_file: Path | None,
) -> None:
    """Time the parts of a training step of SPEC, with its heads and without them.

    Feeds it the data of the spec, or rendered images if it names none: of the size of its evaluation, two a step. The
    weights are fresh and thrown away.
    """
    from codetr.spec import load_spec

    options = {"precision": precision, "compile": "true" if compiled else None, "device": device}
    given = [*overrides, *(f"train.{name}={value}" for name, value in options.items() if value is not None)]
    if batch_size is not None:
        given.append(f"train.batch_size={batch_size}")
    loaded = load_spec(spec, given)
    if size is None and loaded.data.dir is None and loaded.data.train.annotations is None:
        size = (loaded.data.resize.size, loaded.data.resize.max_size)
    if size is not None and not any(entry.startswith("train.batch_size=") for entry in given):
        images = RENDERED_IMAGES * loaded.train.accumulate
        loaded = loaded.model_copy(update={"train": loaded.train.model_copy(update={"batch_size": images})})
    _measure(spec, loaded, size, steps=steps, warmup=warmup, peer=peer, json_file=json_file)


def _measure(
    name: str,
    spec: Spec,
    size: tuple[int, int] | None,
    *,
    steps: int,
    warmup: int,
    peer: str | None,
    json_file: Path | None,
) -> None:
    from dataclasses import replace

    import torch

    from codetr.bench import report
    from codetr.bench.step import tables
    from codetr.bench.step.alone import Request, measure_alone
    from codetr.bench.step.batches import open_source
    from codetr.bench.step.measuring import run
    from codetr.bench.step.recorder import clock_of
    from codetr.bench.step.subjects import make_subject, subject_names
    from codetr.engine.distributed import choose_device

    where = choose_device(spec.train.device)
    if spec.train.threads is not None:
        torch.set_num_threads(spec.train.threads)
    out = report.console()
    report.print_machine(out, where)
    source = open_source(spec, size, pinned=where.type == "cuda")
    out.print(source.note, markup=False)
    names = subject_names(spec, peer)
    makers = [functools.partial(make_subject, subject, spec, source.classes, where) for subject in names]
    with out.status("measuring"):
        results = run(makers, source, steps=steps, warmup=warmup, clock=clock_of(where), device=where)
        if where.type == "cpu":  # each in a process of its own: this one has held them all
            asked = [Request(subject, spec, size, steps=1, warmup=1) for subject in names]
            peaks = [measure_alone(request)["peak_memory"] for request in asked]
            results = [replace(result, peak_memory=peak) for result, peak in zip(results, peaks, strict=True)]
    tables.print_results(out, results, title=_title(name, spec, steps))
    if where.type == "cuda":
        out.print(tables.ON_GPU)
    if not spec.heads:
        out.print("The spec has no heads: there is nothing to compare it with.")
    if json_file is not None:
        from codetr.evaluation.files import write_json

        settings = {"steps": steps, "warmup": warmup, "size": size, "data": source.note}
        document = {"machine": report.machine(where), "spec": spec.model_dump(mode="json"), "settings": settings}
        write_json(json_file, {**document, **tables.record(results)}, indent=2)


def _title(name: str, spec: Spec, steps: int) -> str:
    train = spec.train
    pieces = f" in {train.accumulate} pieces" if train.accumulate > 1 else ""
    further = [train.precision, *(["compiled"] if train.compile else [])]
    if train.recompute:
        further.append(f"{', '.join(train.recompute)} recomputed")
    what = f"a step of {train.batch_size} images{pieces}, {', '.join(further)}"
    return f"{name}: {what}; milliseconds, mean of {steps} step{'s' if steps > 1 else ''}"
