"""Before the first step: does the largest batch fit, is there room for checkpoints, is anything odd about the run?

Nothing that training depends on is changed: weights, buffers and the states of random generators stay as they are.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from codetr.data.coco import CocoDataset
from codetr.data.loader import Loader
from codetr.engine.config import TrainConfig
from codetr.engine.distributed import World
from codetr.engine.loader_speed import loader_speed, speed_line
from codetr.engine.memory import (
    BatchShape,
    StepMemory,
    amount,
    available_memory,
    example_batch,
    largest_batch,
    step_memory,
)
from codetr.engine.panel import listed
from codetr.engine.plan import memory_rows, piece_size, planned_model, room_for_run
from codetr.errors import UserError
from codetr.ops.distributed import alone
from codetr.spec import Spec

FEW_IMAGES = 10_000
"""Fewer than these are too few to train a backbone from nothing."""


@dataclass(frozen=True)
class Preflight:
    """rows: for the plan. warnings: a sentence each. step: seconds of a step of the largest batch, where it was run."""

    rows: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    step: float | None = None


def preflight(
    spec: Spec, data: CocoDataset, ranks: World, *, model: nn.Module, loader: Loader, folder: Path
) -> Preflight:
    """Some seconds of checks. To be called by every rank; what it returns is the leader's to show.

    model: on its device, ready for training, not yet divided among or copied to other ranks. On a GPU it really runs
    the largest batch, and its time is compared with the loader's; elsewhere, and for a model that will be sharded, its
    memory is estimated.
    Raises: UserError if the largest batch does not fit on the GPU, or the disk has no room for the run.
    """
    config = spec.train
    shape = largest_batch(data, spec.data, piece_size(config, ranks.size))
    found = Preflight()
    if ranks.leads:
        memory = step_memory(planned_model(spec, len(data.classes)), shape, config)
        check_room(folder, room_for_run(memory, config))
        rows = memory_rows(memory, shape, config, ranks=ranks.size)
        found = Preflight(rows, (*advice(spec, data), *_tight(memory, shape, config, ranks)))
    step = None
    if ranks.device.type == "cuda" and config.parallel == "ddp":
        peak = try_step(model, shape, config, device=ranks.device)
        start = time.perf_counter()  # by now the kernels are compiled
        try_step(model, shape, config, device=ranks.device)
        torch.cuda.synchronize(ranks.device)
        step = time.perf_counter() - start
        if ranks.leads:
            total = torch.cuda.get_device_properties(ranks.device).total_memory
            found.rows["memory"] = (
                f"{amount(peak)} of {amount(total)}, measured with a batch of {shape}, the largest there can be"
            )
    speed = loader_speed(loader)
    if speed is not None:
        found.rows["loader"] = speed_line(speed, workers=loader.workers, step=step, images=shape.images)
    return replace(found, step=None if step is None else step * config.accumulate)


def try_step(model: nn.Module, shape: BatchShape, config: TrainConfig, *, device: torch.device) -> int:
    """One forward and backward pass of a batch, with room kept for the optimizer and the average. Returns the peak in
    bytes on a GPU, 0 on a CPU. Raises: UserError if it does not fit."""
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    everything = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    reserved = 2 * trained + (everything if config.ema is not None else 0)
    try:
        with _undisturbed(model, device), alone():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            # Left as it comes: on a CPU no page of it is touched.
            room = torch.empty(reserved, dtype=torch.uint8, device=device)
            images, targets = example_batch(shape, device)
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                losses = model(images, targets)
            torch.stack([loss.float() for loss in losses.values()]).sum().backward()
            del room
            return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    except torch.OutOfMemoryError as error:
        raise UserError(_does_not_fit(shape, config, str(error).splitlines()[0])) from error
    finally:
        model.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)


def check_room(folder: Path, needed: int) -> None:
    """Raises: UserError if a run's folder cannot be written, or its disk has less room than the run needs."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(place, os.W_OK):
        raise UserError(f"{folder}: {place} cannot be written to; name another folder with --out")
    present = sum(file.stat().st_size for file in (folder / "checkpoints").rglob("*") if file.is_file())
    free = shutil.disk_usage(place).free
    if free < needed - present:
        raise UserError(
            f"{folder}: the checkpoints of this run take up to {amount(needed - present)}, but the disk has "
            f"{amount(free)} left. Make room, name a folder on another disk with --out, or keep fewer of them: "
            "train.keep_last=1."
        )


def advice(spec: Spec, data: CocoDataset) -> list[str]:
    """What is odd about the settings or the annotations, a sentence each."""
    backbone, config = spec.backbone.settings.model_dump(), spec.train
    untrained = backbone.get("pretrained") is False and config.init_from is None
    lines = []
    if untrained and backbone.get("norm") == "frozen":
        lines.append(
            "backbone.norm=frozen without pretrained weights: the norm at the end of each residual block starts at "
            "zero and stays there, so that blocks add nothing. Set backbone.norm=batch, or backbone.pretrained=true."
        )
    if untrained and spec.data.synthetic is None and len(data) < FEW_IMAGES:
        lines.append(
            f"{len(data)} images are few to train a detector on from scratch: it may find nothing at all (AP 0). Start "
            "from published weights: backbone.pretrained=true, or better train.init_from with those of a detector."
        )
    if len(data) < config.batch_size:
        lines.append(f"train.batch_size={config.batch_size} is more than the {len(data)} images that there are.")
    empty = [name for name, count in zip(data.classes, data.class_counts(), strict=True) if count == 0]
    if empty:
        lines.append(
            f"{len(empty)} of {len(data.classes)} classes have no object in {data.annotations}: {listed(tuple(empty))}."
        )
    if data.dropped:
        lines.append(
            f"{data.dropped} boxes of {data.annotations} are empty or outside of their image, and are left out: "
            "`codetr data check` lists them."
        )
    return lines


def _tight(memory: StepMemory, shape: BatchShape, config: TrainConfig, ranks: World) -> list[str]:
    """A warning if an estimate exceeds what is free. The model itself is there already."""
    sharded = config.parallel == "fsdp"
    if ranks.device.type == "cuda" and not sharded:  # will be tried
        return []
    own = memory.sharded(ranks.size) if sharded else memory
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if ranks.device.type == "cpu" else 1
    needed, free = here * (own.total - own.weights), available_memory(ranks.device)
    if free is None or needed <= free:
        return []
    where = "this machine" if ranks.device.type == "cpu" else "the GPU"
    return [
        f"the largest batch ({shape}) is estimated to take {amount(needed)}, and {where} has {amount(free)} left. "
        + _options(config)
    ]


def _does_not_fit(shape: BatchShape, config: TrainConfig, reason: str) -> str:
    return (
        f"the largest batch ({shape}) does not fit on the GPU ({reason.rstrip('.')}). {_options(config)} "
        "train.preflight=false starts nevertheless."
    )


def _options(config: TrainConfig) -> str:
    """What makes a step smaller and is not set yet."""
    options = [f"train.accumulate={2 * config.accumulate} (the same batch in more pieces)"]
    if not config.recompute:
        options.append("train.recompute=[encoder.layers] (slower, the same numbers)")
    if config.precision == "fp32":
        options.append("train.precision=bf16")
    if config.parallel == "ddp":
        options.append("train.parallel=fsdp (with several GPUs)")
    smaller = "smaller images (data.augment: scales and max_size, or jitter.size)"
    return f"It takes less with {'; '.join(options)}; or {smaller}."


@contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Afterwards the buffers and all random generators are as they were."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
