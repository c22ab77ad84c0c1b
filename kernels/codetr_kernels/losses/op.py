"""The kernels as operators of torch: opaque to `torch.compile` and `torch.export`, with fake kernels and autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from codetr_kernels.losses.reference import (
    distribution_focal_loss_reference,
    quality_focal_loss_reference,
    sigmoid_focal_loss_rows_reference,
)

_CLASS = "Tensor logits, Tensor labels, Tensor? quality, Tensor? weights, float alpha, float exponent"
_DISTRIBUTION = "Tensor logits, Tensor target, Tensor? weights"


def compute_dtype(logits: Tensor) -> torch.dtype:
    """What is computed in, and the type of the loss."""
    return torch.promote_types(logits.dtype, torch.float32)


@torch.library.custom_op("codetr_kernels::class_loss", mutates_args=(), schema=f"({_CLASS}) -> Tensor")
def class_loss(
    logits: Tensor, labels: Tensor, quality: Tensor | None, weights: Tensor | None, alpha: float, exponent: float
) -> Tensor:
    """Focal loss of each row by the Triton kernel; with a quality, quality focal loss, which has no alpha."""
    from codetr_kernels.losses.triton import launch

    return launch.class_loss(launch.Rows(logits, labels, quality, weights, alpha, exponent))


@torch.library.custom_op(
    "codetr_kernels::class_loss_backward", mutates_args=(), schema=f"(Tensor grad, {_CLASS}) -> Tensor"
)
def class_loss_backward(
    grad: Tensor,
    logits: Tensor,
    labels: Tensor,
    quality: Tensor | None,
    weights: Tensor | None,
    alpha: float,
    exponent: float,
) -> Tensor:
    """Gradient of the logits."""
    from codetr_kernels.losses.triton import launch

    return launch.class_loss_backward(grad, launch.Rows(logits, labels, quality, weights, alpha, exponent))


@torch.library.custom_op(
    "codetr_kernels::distribution_focal_loss", mutates_args=(), schema=f"({_DISTRIBUTION}) -> Tensor"
)
def distribution_focal_loss(logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """Distribution focal loss of each row by the Triton kernel."""
    from codetr_kernels.losses.triton import launch

    return launch.distribution_loss(logits, target, weights)


@torch.library.custom_op(
    "codetr_kernels::distribution_focal_loss_backward",
    mutates_args=(),
    schema=f"(Tensor grad, {_DISTRIBUTION}) -> Tensor",
)
def distribution_focal_loss_backward(grad: Tensor, logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """Gradient of the logits."""
    from codetr_kernels.losses.triton import launch

    return launch.distribution_loss_backward(grad, logits, target, weights)


@class_loss.register_fake
def _(logits: Tensor, *rest: Any) -> Tensor:
    return logits.new_empty(logits.shape[:-1], dtype=compute_dtype(logits))


@class_loss_backward.register_fake
def _(grad: Tensor, logits: Tensor, *rest: Any) -> Tensor:
    return logits.new_empty(logits.shape)


@distribution_focal_loss.register_fake
def _(logits: Tensor, *rest: Any) -> Tensor:
    return logits.new_empty(logits.shape[:-1], dtype=compute_dtype(logits))


@distribution_focal_loss_backward.register_fake
def _(grad: Tensor, logits: Tensor, *rest: Any) -> Tensor:
    return logits.new_empty(logits.shape)


def _save_class(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.alpha, ctx.exponent = inputs
    ctx.save_for_backward(*tensors)


def _save_distribution(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _class_gradients(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    logits, labels, quality, weights = ctx.saved_tensors
    if torch.is_grad_enabled():
        # The kernel's gradient has no graph of its own, which `create_graph=True` asks for.
        if quality is None:
            again = sigmoid_focal_loss_rows_reference(logits, labels, weights, alpha=ctx.alpha, gamma=ctx.exponent)
        else:
            again = quality_focal_loss_reference(logits, labels, quality, weights, beta=ctx.exponent)
        (found,) = torch.autograd.grad(again, logits, grad, create_graph=True)
    else:
        found = class_loss_backward(grad, logits, labels, quality, weights, ctx.alpha, ctx.exponent)
    return found, None, None, None, None, None


def _distribution_gradients(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    logits, target, weights = ctx.saved_tensors
    if torch.is_grad_enabled():
        again = distribution_focal_loss_reference(logits, target, weights)
        (found,) = torch.autograd.grad(again, logits, grad, create_graph=True)
    else:
        found = distribution_focal_loss_backward(grad, logits, target, weights)
    return found, None, None


class_loss.register_autograd(_class_gradients, setup_context=_save_class)
distribution_focal_loss.register_autograd(_distribution_gradients, setup_context=_save_distribution)
