"""The kernels as operators of torch: opaque to `torch.compile` and `torch.export`, with fake kernels and autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from codetr_kernels.deform_attention.checks import Shapes
from codetr_kernels.deform_attention.reference import deform_attention_fused_reference, deform_attention_reference

_LEVELS = "Tensor value, SymInt[] sides, Tensor? shapes"
_PLAIN = "Tensor locations, Tensor weights, bool deterministic, bool native"
_FUSED = "Tensor references, Tensor offsets, Tensor logits, Tensor? padding, bool deterministic, bool native"


def levels(shapes: Shapes) -> tuple[list[int], Tensor | None]:
    """`sides` and `shapes` of the operators: numbers if they are on the host, else the tensor."""
    if isinstance(shapes, Tensor):
        return [], shapes
    return [side for shape in shapes for side in shape], None


def _host_or_device(sides: Sequence[int], shapes: Tensor | None) -> Shapes:
    return list(zip(sides[::2], sides[1::2], strict=True)) if shapes is None else shapes


def _is_deterministic(asked: bool) -> bool:
    return asked or torch.are_deterministic_algorithms_enabled()


def _given(gradient: Tensor | None, like: Tensor) -> Tensor:
    """An operator returns tensors only: an empty one for a gradient that nobody asked for."""
    return like.new_empty(0) if gradient is None else gradient


@torch.library.custom_op("codetr_kernels::deform_attention", mutates_args=(), schema=f"({_LEVELS}, {_PLAIN}) -> Tensor")
def deform_attention(
    value: Tensor,
    sides: Sequence[int],
    shapes: Tensor | None,
    locations: Tensor,
    weights: Tensor,
    deterministic: bool,
    native: bool,
) -> Tensor:
    """`codetr_kernels.deform_attention` by the Triton kernel."""
    from codetr_kernels.deform_attention.triton import launch

    return launch.forward(launch.Problem(value, sides, shapes, None, locations, weights, None))


@torch.library.custom_op(
    "codetr_kernels::deform_attention_backward",
    mutates_args=(),
    schema=f"(Tensor grad, {_LEVELS}, {_PLAIN}, bool needs_value) -> (Tensor, Tensor, Tensor)",
)
def deform_attention_backward(
    grad: Tensor,
    value: Tensor,
    sides: Sequence[int],
    shapes: Tensor | None,
    locations: Tensor,
    weights: Tensor,
    deterministic: bool,
    native: bool,
    needs_value: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value (empty if not needed), locations and weights."""
    from codetr_kernels.deform_attention.triton import launch

    found = launch.backward(
        launch.Problem(value, sides, shapes, None, locations, weights, None),
        grad,
        None,
        needs_value=needs_value,
        needs_references=False,
        deterministic=_is_deterministic(deterministic),
        native=native,
    )
    return _given(found.value, value), found.samples, found.logits


@torch.library.custom_op(
    "codetr_kernels::deform_attention_fused", mutates_args=(), schema=f"({_LEVELS}, {_FUSED}) -> Tensor"
)
def deform_attention_fused(
    value: Tensor,
    sides: Sequence[int],
    shapes: Tensor | None,
    references: Tensor,
    offsets: Tensor,
    logits: Tensor,
    padding: Tensor | None,
    deterministic: bool,
    native: bool,
) -> Tensor:
    """`codetr_kernels.deform_attention_fused` by the Triton kernel."""
    from codetr_kernels.deform_attention.triton import launch

    return launch.forward(launch.Problem(value, sides, shapes, references, offsets, logits, padding))


@torch.library.custom_op(
    "codetr_kernels::deform_attention_fused_backward",
    mutates_args=(),
    schema=(
        f"(Tensor grad, Tensor output, {_LEVELS}, {_FUSED}, bool needs_value, bool needs_references)"
        " -> (Tensor, Tensor, Tensor, Tensor)"
    ),
)
def deform_attention_fused_backward(
    grad: Tensor,
    output: Tensor,
    value: Tensor,
    sides: Sequence[int],
    shapes: Tensor | None,
    references: Tensor,
    offsets: Tensor,
    logits: Tensor,
    padding: Tensor | None,
    deterministic: bool,
    native: bool,
    needs_value: bool,
    needs_references: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of value and references (empty if not needed), offsets and logits."""
    from codetr_kernels.deform_attention.triton import launch

    found = launch.backward(
        launch.Problem(value, sides, shapes, references, offsets, logits, padding),
        grad,
        output,
        needs_value=needs_value,
        needs_references=needs_references,
        deterministic=_is_deterministic(deterministic),
        native=native,
    )
    return _given(found.value, value), _given(found.references, references), found.samples, found.logits


@deform_attention.register_fake
def _(value: Tensor, sides: Any, shapes: Any, locations: Tensor, *rest: Any) -> Tensor:
    return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])


@deform_attention_fused.register_fake
def _(value: Tensor, sides: Any, shapes: Any, references: Tensor, offsets: Tensor, *rest: Any) -> Tensor:
    return value.new_empty(value.shape[0], offsets.shape[1], value.shape[2] * value.shape[3])


def _like(tensor: Tensor, needed: bool) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format) if needed else tensor.new_empty(0)


@deform_attention_backward.register_fake
def _(
    grad: Tensor, value: Tensor, sides: Any, shapes: Any, locations: Tensor, weights: Tensor, *flags: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(value, flags[-1]), _like(locations, True), _like(weights, True)


@deform_attention_fused_backward.register_fake
def _(
    grad: Tensor,
    output: Tensor,
    value: Tensor,
    sides: Any,
    shapes: Any,
    references: Tensor,
    offsets: Tensor,
    logits: Tensor,
    padding: Any,
    *flags: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _like(value, flags[-2]), _like(references, flags[-1]), _like(offsets, True), _like(logits, True)


def _save_plain(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, ctx.sides, shapes, locations, weights, *ctx.flags = inputs
    ctx.save_for_backward(value, shapes, locations, weights)


def _save_fused(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, ctx.sides, shapes, references, offsets, logits, padding, *ctx.flags = inputs
    ctx.save_for_backward(value, shapes, references, offsets, logits, padding, output)


def _plain_gradients(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    value, shapes, locations, weights = ctx.saved_tensors
    if torch.is_grad_enabled():
        output = deform_attention_reference(value, _host_or_device(ctx.sides, shapes), locations, weights)
        found = _differentiable(output, grad, (value, locations, weights))
    else:
        needs_value = ctx.needs_input_grad[0]
        found = deform_attention_backward(grad, value, ctx.sides, shapes, locations, weights, *ctx.flags, needs_value)
    by_value, by_locations, by_weights = found
    return _kept(ctx, by_value, None, None, by_locations, by_weights, None, None)


def _fused_gradients(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    value, shapes, references, offsets, logits, padding, output = ctx.saved_tensors
    if torch.is_grad_enabled():
        again = deform_attention_fused_reference(
            value, _host_or_device(ctx.sides, shapes), references, offsets, logits, padding
        )
        found = _differentiable(again, grad, (value, references, offsets, logits))
    else:
        needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[3])
        inputs = (value, ctx.sides, shapes, references, offsets, logits, padding)
        found = deform_attention_fused_backward(grad, output, *inputs, *ctx.flags, *needs)
    by_value, by_references, by_offsets, by_logits = found
    return _kept(ctx, by_value, None, None, by_references, by_offsets, by_logits, None, None, None)


def _differentiable(output: Tensor, grad: Tensor, inputs: tuple[Tensor, ...]) -> list[Tensor | None]:
    """Gradients with a graph of their own, for `create_graph=True`: the kernels' have none."""
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    found = iter(torch.autograd.grad(output, wanted, grad, create_graph=True))
    return [next(found) if tensor.requires_grad else None for tensor in inputs]


def _kept(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    """Without the gradients that are not needed."""
    return tuple(g if needed else None for g, needed in zip(gradients, ctx.needs_input_grad, strict=True))


deform_attention.register_autograd(_plain_gradients, setup_context=_save_plain)
deform_attention_fused.register_autograd(_fused_gradients, setup_context=_save_fused)
