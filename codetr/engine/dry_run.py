"""`codetr train --dry-run`: the plan of a run on any number of ranks, made by one process that trains nothing."""

from __future__ import annotations

import torch
from rich.console import Console

from codetr.data.coco import open_split, require_same_classes
from codetr.engine.distributed import World
from codetr.engine.inputs import open_data, require_possible, training_loader
from codetr.engine.memory import largest_batch, step_memory
from codetr.engine.panel import print_rows
from codetr.engine.plan import memory_rows, piece_size, plan_rows, planned_model
from codetr.engine.preflight import advice
from codetr.spec import Spec


def dry_run(spec: Spec, *, ranks: int, console: Console) -> None:
    """Print the plan. No folder of a run is made; a synthetic data set that is not there yet is rendered.

    Raises: UserError for whatever would keep the run from starting.
    """
    require_possible(spec)
    piece = piece_size(spec.train, ranks)
    data = open_data(spec, World(0, 1, torch.device("cpu")), console)
    if spec.train.eval_every is not None:
        require_same_classes(data, open_split(spec.data.model_copy(update={"masks": False}), "val"))
    model = planned_model(spec, len(data.classes))
    planned = World(0, ranks, torch.device("cpu"))
    steps = -(-len(training_loader(spec, data, planned)) // spec.train.accumulate)
    rows = plan_rows(spec, data, model=model, ranks=planned, steps_per_epoch=steps, device=_device(spec, ranks))
    shape = largest_batch(data, spec.data, piece)
    rows |= memory_rows(step_memory(model, shape, spec.train), shape, spec.train, ranks=ranks)
    print_rows(console, "plan (dry run)", rows)
    for line in advice(spec, data):
        console.print(f"warning: {line}", markup=False, highlight=False, soft_wrap=True)


def _device(spec: Spec, ranks: int) -> str:
    if spec.train.device == "cpu":
        return "CPU" if ranks == 1 else f"{ranks} processes on CPUs"
    return "1 GPU" if ranks == 1 else f"{ranks} GPUs"
