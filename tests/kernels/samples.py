"""Small problems of deformable attention, and what the reference makes of them in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from codetr_kernels import deform_attention_fused, deform_attention_fused_reference
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ODD = ((3, 5), (1, 1), (2, 7))
"""Levels of odd sizes, one of a single cell; 30 tokens."""


@dataclass
class Fused:
    """Inputs of `deform_attention_fused` and a gradient of its output."""

    value: Tensor
    shapes: Sequence[tuple[int, int]] | Tensor
    references: Tensor
    offsets: Tensor
    logits: Tensor
    padding: Tensor | None
    grad: Tensor

    def inputs(self) -> list[Tensor]:
        return [self.value, self.references, self.offsets, self.logits]

    def to(self, dtype: torch.dtype) -> Fused:
        """The same numbers in another type."""
        value, references, offsets, logits, grad = (x.to(dtype) for x in (*self.inputs(), self.grad))
        return Fused(value, self.shapes, references, offsets, logits, self.padding, grad)


def fused(
    shapes: Sequence[tuple[int, int]] = ODD,
    *,
    batch: int = 2,
    queries: int = 5,
    heads: int = 2,
    channels: int = 8,
    points: int = 2,
    width: int = 2,
    padded: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Fused:
    """A random problem, a good share of its samples outside. Rounded to `dtype`; references stay float32 or wider."""
    tokens, levels = sum(height * wide for height, wide in shapes), len(shapes)
    value = torch.randn(batch, tokens, heads, channels)
    references = torch.rand(batch, queries, levels, width) * 1.2 - 0.1
    offsets = torch.randn(batch, queries, heads, levels, points, 2) * 1.5
    logits = torch.randn(batch, queries, heads, levels * points)
    padding = torch.rand(batch, tokens) < 0.3 if padded else None
    grad = torch.randn(batch, queries, heads * channels)
    wide = torch.promote_types(dtype, torch.float32)
    return Fused(
        value.to(DEVICE, dtype),
        shapes,
        references.to(DEVICE, wide),
        offsets.to(DEVICE, dtype),
        logits.to(DEVICE, dtype),
        None if padding is None else padding.to(DEVICE),
        grad.to(DEVICE, dtype),
    )


def run(problem: Fused, **settings: object) -> tuple[Tensor, list[Tensor]]:
    """Output, and gradients of value, references, offsets and logits, by the dispatching operator."""
    inputs = [tensor.detach().requires_grad_() for tensor in problem.inputs()]
    value, references, offsets, logits = inputs
    output = deform_attention_fused(value, problem.shapes, references, offsets, logits, problem.padding, **settings)
    return output.detach(), list(torch.autograd.grad(output, inputs, problem.grad))


def expected(problem: Fused) -> tuple[Tensor, list[Tensor]]:
    """The same by the reference in float64."""
    exact = problem.to(torch.float64)
    inputs = [tensor.detach().requires_grad_() for tensor in exact.inputs()]
    value, references, offsets, logits = inputs
    output = deform_attention_fused_reference(value, exact.shapes, references, offsets, logits, exact.padding)
    return output.detach(), list(torch.autograd.grad(output, inputs, exact.grad))


EPSILON = {
    torch.float64: 2**-52,
    torch.float32: 2**-23,
    torch.float16: 2**-11,
    # Triton's interpreter cuts the last bits off where a GPU rounds.
    torch.bfloat16: 2**-8 if DEVICE == "cuda" else 2**-7,
}
"""Largest relative error of one rounding."""


def assert_close(found: tuple[Tensor, list[Tensor]], wanted: tuple[Tensor, list[Tensor]], *, arithmetic: float) -> None:
    """Output and gradients within what the types allow.

    One rounding to the type of the result, relative to it; and rounding of the arithmetic, relative to the largest
    entry, times 32: a sample's place has the size of a level (7 cells), its error is multiplied by a slope of up to 4
    values, and some 40 terms are summed.
    """
    for name, a, b in zip(
        ("output", "value", "references", "offsets", "logits"),
        (found[0], *found[1]),
        (wanted[0], *wanted[1]),
        strict=True,
    ):
        slack = 32 * arithmetic * max(1.0, b.abs().max().item()) if b.numel() else 0.0
        torch.testing.assert_close(
            a.double(), b, rtol=EPSILON[a.dtype], atol=slack, msg=lambda text, name=name: f"{name}: {text}"
        )
