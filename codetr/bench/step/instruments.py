"""Where a model's parts begin and end, found without changing what it computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from torch import nn

from codetr.bench.step.recorder import (
    BACKBONE,
    DECODER,
    ENCODER,
    LOSSES,
    MATCHING,
    PROPOSALS,
    SHARED,
    Recorder,
    head_part,
)
from codetr.losses import set_loss
from codetr.models.collaborative import Collaborative

Place = tuple[Any, str, str]
"""An object, its function, and the part that a call of it is."""


@contextmanager
def detector_instruments(model: Collaborative, recorder: Recorder) -> Iterator[None]:
    """Inside, the calls of the parts of one of our detectors are marked.

    The parts are called as before, compiled ones too: what is marked is outside of them.
    """
    places: list[Place] = [
        (model.base, "encode", ENCODER),
        (model.base, "propose", PROPOSALS),
        (model.base, "adopt", SHARED),
        (model.base, "decode", DECODER),
        (model.criterion, "group", LOSSES),
        (model.criterion, "encoder", LOSSES),
        (set_loss, "hungarian_match", MATCHING),
        *((head, "forward", head_part(name)) for name, head in model.heads.items()),
        *((queries, "forward", SHARED) for queries in model.positive_queries.values()),
    ]
    if model.adapter is not None:
        places.append((model.adapter, "forward", SHARED))
    with timed_places(places, recorder), _timed_backbone(model, recorder):
        yield


@contextmanager
def timed_places(places: list[Place], recorder: Recorder) -> Iterator[None]:
    """Inside, calls of these functions are parts."""
    with ExitStack() as stack:
        for owner, attribute, part in places:
            stack.enter_context(patch.object(owner, attribute, recorder.timed(getattr(owner, attribute), part)))
        yield


class _Timed(nn.Module):
    """A module in another's place."""

    def __init__(self, inner: nn.Module, recorder: Recorder, part: str) -> None:
        super().__init__()
        self.inner, self._recorder, self._part = inner, recorder, part

    def forward(self, *arguments: Any) -> Any:
        with self._recorder.part(self._part):
            return self.inner(*arguments)


@contextmanager
def _timed_backbone(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    """The backbone is called within `encode`, and may be compiled hooks and all: the module is wrapped, not hooked."""
    owner = next((module for module in model.modules() if "backbone" in dict(module.named_children())), None)
    if owner is None:  # a base of the user's own that calls it otherwise: part of the encoder
        yield
        return
    backbone = owner.get_submodule("backbone")
    owner.backbone = _Timed(backbone, recorder, BACKBONE)
    try:
        yield
    finally:
        owner.backbone = backbone
