"""The kernels as operators of torch: opaque to `torch.compile` and `torch.export`, with fake kernels and autograd."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from codetr_kernels.boxes.reference import BoxFormat, Kind, box_loss_reference

_LOSS = "Tensor prediction, Tensor target, str kind, bool cxcywh"


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """What is computed in: float64 where an input is, else float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


@torch.library.custom_op(
    "codetr_kernels::pairwise_overlap",
    mutates_args=(),
    schema="(Tensor a, Tensor b, bool general, bool cxcywh) -> Tensor",
)
def pairwise_overlap(a: Tensor, b: Tensor, general: bool, cxcywh: bool) -> Tensor:
    """IoU, or generalised IoU, (B, N, M) of (B, N, 4) and (B, M, 4) by the Triton kernel; without a gradient."""
    from codetr_kernels.boxes.triton import launch

    return launch.pairwise_overlap(a, b, general=general, cxcywh=cxcywh)


@torch.library.custom_op("codetr_kernels::box_loss", mutates_args=(), schema=f"({_LOSS}) -> Tensor")
def box_loss(prediction: Tensor, target: Tensor, kind: str, cxcywh: bool) -> Tensor:
    """The loss (...) of boxes (..., 4) of one shape by the Triton kernel. kind: of `reference.Kind`."""
    from codetr_kernels.boxes.triton import launch

    return launch.box_loss(prediction, target, kind=kind, cxcywh=cxcywh)


@torch.library.custom_op(
    "codetr_kernels::box_loss_backward",
    mutates_args=(),
    schema=f"(Tensor grad, {_LOSS}, bool needs_prediction, bool needs_target) -> (Tensor, Tensor)",
)
def box_loss_backward(
    grad: Tensor,
    prediction: Tensor,
    target: Tensor,
    kind: str,
    cxcywh: bool,
    needs_prediction: bool,
    needs_target: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of prediction and target, each empty if not needed."""
    from codetr_kernels.boxes.triton import launch

    return launch.box_loss_backward(
        grad,
        prediction,
        target,
        kind=kind,
        cxcywh=cxcywh,
        needs_prediction=needs_prediction,
        needs_target=needs_target,
    )


@pairwise_overlap.register_fake
def _(a: Tensor, b: Tensor, general: bool, cxcywh: bool) -> Tensor:
    return a.new_empty(*a.shape[:2], b.shape[1], dtype=compute_dtype(a, b))


@box_loss.register_fake
def _(prediction: Tensor, target: Tensor, kind: str, cxcywh: bool) -> Tensor:
    return prediction.new_empty(prediction.shape[:-1], dtype=compute_dtype(prediction, target))


@box_loss_backward.register_fake
def _(grad: Tensor, prediction: Tensor, target: Tensor, kind: str, cxcywh: bool, *needs: bool) -> tuple[Tensor, Tensor]:
    by_prediction, by_target = (
        boxes.new_empty(boxes.shape if needed else (0,))
        for boxes, needed in zip((prediction, target), needs, strict=True)
    )
    return by_prediction, by_target


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    prediction, target, ctx.kind, ctx.cxcywh = inputs
    ctx.save_for_backward(prediction, target)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    prediction, target = ctx.saved_tensors
    needs = ctx.needs_input_grad[:2]
    if torch.is_grad_enabled():
        found = _differentiable(grad, prediction, target, ctx.kind, ctx.cxcywh)
    else:
        found = box_loss_backward(grad, prediction, target, ctx.kind, ctx.cxcywh, *needs)
    return *(g if needed else None for g, needed in zip(found, needs, strict=True)), None, None


def _differentiable(
    grad: Tensor, prediction: Tensor, target: Tensor, kind: str, cxcywh: bool
) -> tuple[Tensor | None, ...]:
    """Gradients with a graph of their own, for `create_graph=True`: the kernel's have none."""
    inputs = (prediction, target)
    box_format: BoxFormat = "cxcywh" if cxcywh else "xyxy"
    loss = box_loss_reference(prediction, target, kind=cast(Kind, kind), box_format=box_format)
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    found = iter(torch.autograd.grad(loss, wanted, grad, create_graph=True))
    return tuple(next(found) if tensor.requires_grad else None for tensor in inputs)


box_loss.register_autograd(_gradients, setup_context=_save)
