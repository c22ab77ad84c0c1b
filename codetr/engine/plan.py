"""The plan of a run: what `codetr train` shows before the first step, and `--dry-run` without starting."""

from __future__ import annotations

from datetime import timedelta

import torch

from codetr.data.coco import CocoDataset
from codetr.engine.acceleration import accelerate
from codetr.engine.config import TrainConfig
from codetr.engine.distributed import World
from codetr.engine.freezing import freeze, start_training
from codetr.engine.memory import BatchShape, StepMemory, amount
from codetr.engine.optim import build_optimizer, rates_line
from codetr.engine.panel import batch_line, listed, parameters_line, schedule_line
from codetr.engine.schedule import Schedule, scaled_lr
from codetr.errors import UserError
from codetr.models.build import build
from codetr.models.collaborative import Collaborative
from codetr.spec import Spec


def piece_size(config: TrainConfig, ranks: int) -> int:
    """Images that a rank computes at a time. Raises: UserError with the nearest batch that can be divided."""
    pieces = ranks * config.accumulate
    if config.batch_size % pieces:
        below = config.batch_size // pieces * pieces
        near = f"{below} or {below + pieces}" if below else f"{pieces}"
        among = [f"among {ranks} ranks"] if ranks > 1 else []
        among += [f"{'' if among else 'by '}train.accumulate={config.accumulate}"] if config.accumulate > 1 else []
        raise UserError(
            f"train.batch_size: {config.batch_size} images cannot be divided {' times '.join(among)}; "
            f"use {near}, or another multiple of {pieces}."
        )
    return config.batch_size // pieces


def planned_model(spec: Spec, num_classes: int) -> Collaborative:
    """The model as it will be trained, on the meta device: without numbers, in no time. It is not compiled."""
    with torch.device("meta"):
        model = build(spec, num_classes, pretrained=False)
    freeze(model, spec.train.freeze)
    accelerate(model, spec.train.model_copy(update={"compile": False}))
    start_training(model)
    return model


def plan_rows(
    spec: Spec, data: CocoDataset, *, model: Collaborative, ranks: World, steps_per_epoch: int, device: str
) -> dict[str, str]:
    """Names and values for `panel.print_rows`. model: as it is trained, or as planned. device: what it runs on."""
    config, schedule = spec.train, Schedule(spec.train, steps_per_epoch)
    optimizer = build_optimizer(model, config, device=torch.device("cpu"))
    rows = {
        "data": f"{data.annotations}, {len(data)} images",
        "classes": f"{len(data.classes)}: {listed(data.classes)}",
        "model": f"{spec.base.name} on {spec.backbone.name}",
        "heads": ", ".join(spec.heads) or "none",
        "parameters": parameters_line(model),
        "start": _start(spec),
        "steps": f"{config.epochs} epochs x {steps_per_epoch} = {schedule.total_steps}",
        "batch": batch_line(config, ranks),
        "lr": schedule_line(config),
        "lr by part": rates_line(optimizer, scaled_lr(config)),
        "device": f"{device}, {config.precision}" + (", compiled" if config.compile else ""),
    }
    if config.freeze:
        rows["frozen"] = ", ".join(config.freeze)
    if config.ema is not None:
        rows["average"] = f"moving, decay {config.ema.decay:g}"
    if config.average_last is not None:
        rows["averaged"] = f"the weights after the last {config.average_last} epochs"
    if config.early_stopping is not None:
        rows["stops"] = f"early, after {config.early_stopping.patience} evaluations without a better AP"
    if config.recompute:
        rows["recomputed"] = ", ".join(config.recompute)
    for number, note in enumerate(schedule.notes()):
        rows[f"note {number + 1}"] = note
    return rows


def eta_row(steps: int, seconds: float | None) -> dict[str, str]:
    """How long the steps that are left take. seconds: of a step of the largest batch, or None if none was run."""
    if seconds is None:
        return {"ETA": "told by the log after the first steps"}
    return {"ETA": f"at most about {timedelta(seconds=round(steps * seconds))}, without evaluations"}


def memory_rows(memory: StepMemory, shape: BatchShape, config: TrainConfig, *, ranks: int) -> dict[str, str]:
    """Names and values for `panel.print_rows`. memory: of the whole model."""
    own = memory.sharded(ranks) if config.parallel == "fsdp" else memory
    parts = {"weights": own.weights, "gradients": own.gradients, "AdamW": own.moments, "average": own.average}
    parts |= {"activations": own.activations, "batch": own.batch}
    listed_parts = ", ".join(f"{name} {amount(size)}" for name, size in parts.items() if size)
    rows = {"memory": f"about {amount(own.total)} a rank for a batch of {shape}: {listed_parts}"}
    if ranks > 1 and config.parallel == "ddp":
        rows["sharded"] = f"about {amount(memory.sharded(ranks).total)} a rank with train.parallel=fsdp"
    rows["checkpoint"] = f"{amount(memory.checkpoint)}; up to {amount(room_for_run(memory, config))} for the run"
    return rows


def room_for_run(memory: StepMemory, config: TrainConfig) -> int:
    """Bytes on the disk: the last checkpoints, one being written, the weights of the best, and averaged ones."""
    weights = memory.weights * (2 if config.average_last is not None else 1)
    return (config.keep_last + 1) * memory.checkpoint + weights


def _start(spec: Spec) -> str:
    if spec.train.init_from is not None:
        return f"from {spec.train.init_from}"
    settings = spec.backbone.settings.model_dump()
    return "from published weights of the backbone" if settings.get("pretrained") else "from scratch"
