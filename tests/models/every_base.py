"""Every base of the package at the size of a test, with the criterion and the neck of its fragment in the zoo."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from codetr.models.build import ModelSpec, build
from codetr.models.collaborative import Collaborative
from codetr.registry import names

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from _small_bases import Size, small_spec

BASES = names("bases")
TINY = Size(dim=32, queries=9, encoder_layers=1, decoder_layers=2, channels=(8, 16, 16, 16), norm="frozen")


def tiny_spec(base: str, *, heads: bool, **settings: Any) -> ModelSpec:
    """A base alone, or with ATSS and Faster-RCNN heads. settings: of the base, instead of the small ones."""
    spec = small_spec(base, heads=heads, size=TINY).model_dump()
    return ModelSpec.model_validate({**spec, "base": {**spec["base"], **settings}})


def tiny_model(base: str, num_classes: int, *, heads: bool, **settings: Any) -> Collaborative:
    """Predictions start away from their regular initial values, so that order and gradients show."""
    torch.manual_seed(0)
    model = build(tiny_spec(base, heads=heads, **settings), num_classes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model
