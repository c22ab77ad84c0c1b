"""Class losses summed over the classes of a row, forward and backward.

Limits, in roundings of float32 as a share of the largest number: a term has about sixteen, a sum of K terms K more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from codetr_kernels.losses import (
    distribution_focal_loss,
    distribution_focal_loss_reference,
    quality_focal_loss,
    quality_focal_loss_reference,
    sigmoid_focal_loss_rows,
    sigmoid_focal_loss_rows_reference,
)
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from codetr.bench.assignment.boxes import true_gradients
from codetr.bench.assignment.case import CPU, CUDA, OURS, QUICK, Case, Inputs, Maker, always, compiled
from codetr.bench.assignment.comparing import UNIT, beyond

TERM = 16
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

FUNCTIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[str, ...]]] = {
    "focal": (sigmoid_focal_loss_rows, sigmoid_focal_loss_rows_reference, ("logits", "labels")),
    "quality_focal": (quality_focal_loss, quality_focal_loss_reference, ("logits", "labels", "quality")),
    "distribution_focal": (distribution_focal_loss, distribution_focal_loss_reference, ("logits", "target")),
}
"""Ours, our reference, and what both are given."""


def cases() -> list[Case]:
    """Two images of 22,223 tokens and 80 classes on a GPU; fewer rows on a CPU."""
    cpu, gpu, quick = frozenset({CPU}), frozenset({CUDA}), frozenset({QUICK})
    return [
        loss_case("focal", 2_000, 80, "fp32", quick),
        loss_case("focal", 10_000, 80, "fp32", cpu),
        loss_case("focal", 44_446, 80, "fp32", gpu),
        loss_case("focal", 44_446, 80, "bf16", gpu),
        loss_case("quality_focal", 10_000, 80, "fp32", cpu),
        loss_case("quality_focal", 44_446, 80, "fp32", gpu),
        loss_case("distribution_focal", 4_000, 17, "fp32", cpu | quick),
        loss_case("distribution_focal", 40_000, 17, "fp32", gpu),
    ]


def loss_case(name: str, rows: int, width: int, dtype: str, suits: frozenset[str]) -> Case:
    ours, reference, arguments = FUNCTIONS[name]

    def call(function: Callable[..., Tensor], inputs: Inputs) -> Tensor:
        return function(*(inputs[argument] for argument in arguments))

    people: dict[str, Maker] = {
        OURS: always(partial(call, ours)),
        "reference": always(partial(call, reference)),
        "compiled": compiled(reference, call),
    }
    if name == "focal":
        people["torchvision"] = always(_torchvision)
    return Case(
        op="losses",
        name=f"{name}-{rows}x{width}-{dtype}",
        shape=f"{rows:,} rows of {width}",
        make=lambda device: _inputs(rows, width, DTYPES[dtype], device),
        people=people,
        peer="torchvision" if name == "focal" else "reference",
        truth=lambda inputs: true_gradients(partial(call, reference), inputs, ("logits",)),
        check=lambda found, truth: beyond(
            dict(zip(("loss", "gradient"), zip(found, truth, strict=True), strict=True)), limit=(TERM + width) * UNIT
        ),
        gradients=("logits",),
        suits=suits,
    )


def _torchvision(inputs: Inputs) -> Tensor:
    """With one-hot targets made of the labels, the label of background cut off; in float32, as models call it."""
    logits = inputs["logits"].float()
    targets = F.one_hot(inputs["labels"], logits.shape[-1] + 1)[..., :-1].to(logits.dtype)
    return sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2.0).sum(-1)


def _inputs(rows: int, width: int, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Logits; labels, one row in a hundred of an object; qualities; targets between the bins."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(width, (rows,), generator=generator)
    is_object = torch.rand(rows, generator=generator) < 0.01
    inputs = {
        "logits": (2 * torch.randn(rows, width, generator=generator)).to(dtype),
        "labels": torch.where(is_object, labels, width),
        "quality": torch.rand(rows, generator=generator),
        "target": (width - 1) * torch.rand(rows, generator=generator),
        "grad": torch.rand(rows, generator=generator),
    }
    return {name: value.to(device) for name, value in inputs.items()}
