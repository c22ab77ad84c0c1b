"""From tensors to a launch: constants, grid, buffers."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from codetr_kernels.launching import device_of
from codetr_kernels.losses.op import compute_dtype
from codetr_kernels.losses.triton.kernels import (
    class_loss_backward_kernel,
    class_loss_kernel,
    distribution_backward_kernel,
    distribution_kernel,
)

NUM_WARPS = 4
ENTRIES = 1024
"""Logits that a program holds at once, 8 a thread."""


class Rows(NamedTuple):
    """The inputs of a class loss. quality: None for focal loss, which alone has an alpha."""

    logits: Tensor
    labels: Tensor
    quality: Tensor | None
    weights: Tensor | None
    alpha: float
    exponent: float


def class_loss(rows: Rows) -> Tensor:
    """(...) of logits (..., K)."""
    output = rows.logits.new_empty(rows.logits.shape[:-1], dtype=compute_dtype(rows.logits))
    if not rows.logits.numel():
        return output.zero_()
    constants = class_constants(rows)
    with device_of(output):
        class_loss_kernel[_grid(output.numel(), constants)](
            *class_tensors(rows), output, output.numel(), rows.alpha, rows.exponent, **constants, num_warps=NUM_WARPS
        )
    return output


def class_loss_backward(grad: Tensor, rows: Rows) -> Tensor:
    """Gradient of the logits."""
    by_logits = rows.logits.new_empty(rows.logits.shape)
    if not by_logits.numel():
        return by_logits
    constants = class_constants(rows)
    tensors = (grad.contiguous(), *class_tensors(rows), by_logits)
    with device_of(grad):
        class_loss_backward_kernel[_grid(grad.numel(), constants)](
            *tensors, grad.numel(), rows.alpha, rows.exponent, **constants, num_warps=NUM_WARPS
        )
    return by_logits


def distribution_loss(logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """(...) of logits (..., bins)."""
    output = logits.new_empty(logits.shape[:-1], dtype=compute_dtype(logits))
    if not output.numel():
        return output
    constants = distribution_constants(logits, weights)
    with device_of(output):
        distribution_kernel[_grid(output.numel(), constants)](
            *distribution_tensors(logits, target, weights), output, output.numel(), **constants, num_warps=NUM_WARPS
        )
    return output


def distribution_loss_backward(grad: Tensor, logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """Gradient of the logits."""
    by_logits = logits.new_empty(logits.shape)
    if not by_logits.numel():
        return by_logits
    constants = distribution_constants(logits, weights)
    tensors = (grad.contiguous(), *distribution_tensors(logits, target, weights), by_logits)
    with device_of(grad):
        distribution_backward_kernel[_grid(grad.numel(), constants)](
            *tensors, grad.numel(), **constants, num_warps=NUM_WARPS
        )
    return by_logits


def class_tensors(rows: Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, labels, quality and weights as the kernels take them; the labels stand for what is not given."""
    labels = rows.labels.contiguous()
    quality = labels if rows.quality is None else rows.quality.contiguous()
    return rows.logits.contiguous(), labels, quality, _numbers(rows.weights, labels)


def distribution_tensors(logits: Tensor, target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, target and weights as the kernels take them; the target stands for weights that are not given."""
    target = target.contiguous()
    return logits.contiguous(), target, _numbers(weights, target)


def class_constants(rows: Rows) -> dict[str, object]:
    """What the kernels of class losses are compiled for."""
    classes = rows.logits.shape[-1]
    block_k = columns(classes)
    return {
        "K": classes,
        "QUALITY": rows.quality is not None,
        "WEIGHTED": rows.weights is not None,
        "SQUARE": rows.exponent == 2,
        "ACC": _triton_dtype(rows.logits),
        "BLOCK_R": ENTRIES // block_k,
        "BLOCK_K": block_k,
    }


def distribution_constants(logits: Tensor, weights: Tensor | None) -> dict[str, object]:
    """What the kernels of distributions are compiled for."""
    block_b = int(triton.next_power_of_2(logits.shape[-1]))
    return {
        "BINS": logits.shape[-1],
        "WEIGHTED": weights is not None,
        "ACC": _triton_dtype(logits),
        "BLOCK_R": ENTRIES // block_b,
        "BLOCK_B": block_b,
    }


def columns(classes: int) -> int:
    """Columns of a chunk: the widest of 128 to 16 that leaves at most a tenth of its last one empty, for all of them.

    Every entry costs some 40 instructions, whether it exists or not: 80 classes are five chunks of 16, not one of 128.
    """
    if classes <= 16:
        return int(triton.next_power_of_2(classes))
    fitting = (width for width in (128, 64, 32) if triton.cdiv(classes, width) * width <= 1.1 * classes)
    return next(fitting, 16)


def _numbers(weights: Tensor | None, unused: Tensor) -> Tensor:
    if weights is None:
        return unused
    weights = weights.contiguous()
    return weights.view(torch.uint8) if weights.dtype == torch.bool else weights


def _triton_dtype(logits: Tensor) -> tl.dtype:
    return tl.float64 if logits.dtype == torch.float64 else tl.float32


def _grid(rows: int, constants: dict[str, object]) -> tuple[int]:
    return (triton.cdiv(rows, int(str(constants["BLOCK_R"]))),)
