"""Who takes a training step: a spec's detector, the same without its heads, and a peer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from codetr.bench.step.instruments import detector_instruments
from codetr.bench.step.recorder import Recorder
from codetr.engine.config import TrainConfig
from codetr.engine.freezing import freeze, start_training
from codetr.engine.patterns import matching
from codetr.engine.seed import seed_all
from codetr.models.build import build
from codetr.spec import Spec
from codetr.structures import Batch

WITH, WITHOUT, TRANSFORMERS = "with heads", "without heads", "transformers"
PEERS = (TRANSFORMERS,)


@dataclass(frozen=True)
class Subject:
    """losses: weighted ones of a batch, whose sum is the step's. instruments: mark the parts of `losses` inside of it.
    note: what a reader must know."""

    name: str
    model: nn.Module
    losses: Callable[[Batch], Mapping[str, Tensor]]
    instruments: Callable[[Recorder], AbstractContextManager[None]]
    config: TrainConfig
    note: str = ""


def subject_names(spec: Spec, peer: str | None) -> list[str]:
    """Who is measured, in the order of the table."""
    return [WITHOUT, *([WITH] if spec.heads else []), *([peer] if peer is not None else [])]


def make_subject(name: str, spec: Spec, classes: int, device: torch.device) -> Subject:
    """A model with fresh weights, on its device, in training mode.

    Raises: UserError if the peer has no such model.
    """
    seed_all(spec.train.seed)
    if name == TRANSFORMERS:
        from codetr.bench.step.peer import transformers_subject

        return transformers_subject(spec, classes, device)
    heads = spec.heads if name == WITH else {}
    model = build(spec.model_copy(update={"heads": heads}), classes, pretrained=False).to(device)
    config = spec.train if name == WITH else _of_the_rest(spec.train, model)
    freeze(model, config.freeze)
    if config.compile or config.recompute:
        from codetr.engine.acceleration import accelerate

        accelerate(model, config)
    start_training(model)
    return Subject(
        name,
        model,
        lambda batch: model(batch.images, batch.targets),
        lambda recorder: detector_instruments(model, recorder),
        config,
    )


def _of_the_rest(config: TrainConfig, model: nn.Module) -> TrainConfig:
    """The settings without the patterns that only parameters of heads match, which would be errors."""
    return config.model_copy(
        update={
            "freeze": tuple(pattern for pattern in config.freeze if matching(model, pattern)),
            "lr_groups": tuple(group for group in config.lr_groups if matching(model, group.match)),
        }
    )
