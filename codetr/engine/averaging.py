"""The mean of the weights of several checkpoints of a run (stochastic weight averaging)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from codetr.engine.checkpoint import read_meta, read_weights
from codetr.engine.config import TrainConfig
from codetr.errors import UserError


def averaged_epochs(config: TrainConfig) -> range:
    """The epochs, counted from 1, whose weights `average_last` averages; empty without it.

    Raises: UserError if there are not so many.
    """
    count = config.average_last or 0
    if count > config.epochs:
        raise UserError(
            f"train.average_last={count} is more than train.epochs={config.epochs}; use at most {config.epochs}."
        )
    return range(config.epochs - count + 1, config.epochs + 1)


def average_weights(checkpoints: Sequence[Path]) -> dict[str, Tensor]:
    """A state dictionary: the mean of floating-point tensors, summed in float64, in their own type, and the last
    checkpoint's others (such as counters of batches). Running statistics of batch norms are averaged too.

    checkpoints: folders or .safetensors files of one model, the oldest first. One is in memory at a time. Tensors that
    the model shares under several names are one tensor again.
    Raises: UserError if there is none, or they are not of one model and one list of classes.
    Source: Izmailov et al., arXiv 1803.05407.
    """
    if not checkpoints:
        raise UserError("there are no checkpoints to average")
    first, classes = checkpoints[0], read_meta(checkpoints[0]).classes
    sums: dict[str, Tensor] = {}
    shapes: dict[str, torch.Size] = {}
    weights: dict[str, Tensor] = {}
    for path in checkpoints:
        if read_meta(path).classes != classes:
            raise UserError(_refusal(first, path, "they have other classes, or have them in another order"))
        weights = read_weights(path)
        shapes = shapes or {name: tensor.shape for name, tensor in weights.items()}
        _check_same(shapes, weights, first=first, path=path)
        for name, tensor in weights.items():
            if tensor.is_floating_point():
                total = sums.get(name)
                sums[name] = tensor.to(torch.float64, copy=True) if total is None else total.add_(tensor)
    # By the tensor that the last checkpoint has under one or several names.
    means = {
        id(tensor): (sums[name] / len(checkpoints)).to(tensor.dtype) if name in sums else tensor
        for name, tensor in weights.items()
    }
    return {name: means[id(tensor)] for name, tensor in weights.items()}


def _check_same(shapes: dict[str, torch.Size], weights: dict[str, Tensor], *, first: Path, path: Path) -> None:
    problems = [
        *(f"{name} is only in one of them" for name in sorted(set(shapes) ^ set(weights))),
        *(
            f"{name} has shape {tuple(shapes[name])} and {tuple(tensor.shape)}"
            for name, tensor in weights.items()
            if name in shapes and shapes[name] != tensor.shape
        ),
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(_refusal(first, path, f"{problems[0]}{more}"))


def _refusal(first: Path, path: Path, reason: str) -> str:
    return f"{first} and {path} cannot be averaged: {reason}. Average checkpoints of one run."
