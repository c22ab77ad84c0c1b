"""Multi-scale deformable attention: contract and dispatch.

Source: Zhu et al., Deformable DETR, arXiv 2010.04159, equation 3.

Dimension key: B batch, S tokens of all levels, H heads, D channels of a head, Q queries, L levels, P points.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor

from codetr_kernels.backend import runs_triton
from codetr_kernels.deform_attention import checks, op
from codetr_kernels.deform_attention.checks import Shapes
from codetr_kernels.deform_attention.cpu import deform_attention_cpu, deform_attention_fused_cpu
from codetr_kernels.deform_attention.reference import (
    deform_attention_fused_reference,
    deform_attention_reference,
    level_sides,
    sampling_locations,
)

__all__ = [
    "deform_attention",
    "deform_attention_fused",
    "deform_attention_fused_reference",
    "deform_attention_reference",
    "level_sides",
    "sampling_locations",
]


def deform_attention(
    value: Tensor,
    shapes: Shapes,
    locations: Tensor,
    weights: Tensor,
    *,
    deterministic: bool = False,
    accumulate: Literal["float32", "native"] = "float32",
) -> Tensor:
    """Weighted sum of bilinear samples of `value`, taken at L x P places for each query and head.

    value: (B, S, H, D), levels one after the other, each row-major. shapes: (height, width) of each level, sum of
    products S; or an int tensor (L, 2) of them, on the device of `value` if it is to be read without waiting.
    locations: (B, Q, H, L, P, 2), x then y, 0 and 1 the outer edges of the level's first and last cell (cell centres at
    +0.5, as `align_corners=False`); samples outside, at infinity and at NaN read zeros and have no gradient.
    weights: (B, Q, H, L, P), used as they are.
    Returns (B, Q, H * D), heads one after the other, in the dtype of `value`; sampled and summed in float32 (float64
    where value or locations are). Gradients flow to value, locations and weights; second derivatives go through the
    reference.

    deterministic: whether the gradient of `value` is summed in fixed point, so that it is the same bits in every run;
    `torch.use_deterministic_algorithms(True)` asks for it everywhere. accumulate: "native" sums it in the 16-bit type
    of `value` instead of float32: less memory traffic, and an error that docs/kernels.md states; needs compute
    capability 9.0. `which_backend` says whether the Triton kernels or PyTorch's operations run; these ignore both.

    Raises: ValueError for shapes that do not fit, tensors that are not floating-point, tensors on several devices, or
    two ways of summing at once.
    Level shapes on an accelerator are not looked at, which would wait for it: a level that ends beyond S gives NaN.
    """
    checks.check(value, shapes, locations, weights)
    checks.check_accumulate(accumulate, deterministic=deterministic)
    if not _takes_kernels(value, locations, weights, placed=locations):
        plain = deform_attention_cpu if _is_eager_cpu(value) else deform_attention_reference
        return plain(value, shapes, locations, weights)
    return op.deform_attention(value, *op.levels(shapes), locations, weights, deterministic, accumulate == "native")


def deform_attention_fused(
    value: Tensor,
    shapes: Shapes,
    references: Tensor,
    offsets: Tensor,
    logits: Tensor,
    padding: Tensor | None = None,
    *,
    deterministic: bool = False,
    accumulate: Literal["float32", "native"] = "float32",
) -> Tensor:
    """`deform_attention` with the softmax, the sampling locations and the padding computed inside.

    Neither locations nor weights nor a masked copy of `value` exist in memory, in either direction.

    value, shapes, deterministic, accumulate: as in `deform_attention`. references: (B, Q, L, 2) points or (B, Q, L, 4)
    boxes cxcywh, in units of each level. offsets: (B, Q, H, L, P, 2), x then y, in cells for points, in shares of half
    a box side, P of them, for boxes. logits: (B, Q, H, L * P), softmax over the last axis. padding: (B, S), True where
    a token counts as zeros, or None.
    Returns (B, Q, H * D) in the dtype of `value`. Gradients flow to value (zero at padded tokens), references, offsets
    and logits. Types may differ: 16-bit offsets and logits beside float32 references are read as they are.

    Raises: ValueError as `deform_attention`.
    """
    checks.check_fused(value, shapes, references, offsets, logits, padding)
    checks.check_accumulate(accumulate, deterministic=deterministic)
    if not _takes_kernels(value, offsets, logits, placed=references):
        plain = deform_attention_fused_cpu if _is_eager_cpu(value) else deform_attention_fused_reference
        return plain(value, shapes, references, offsets, logits, padding)
    return op.deform_attention_fused(
        value, *op.levels(shapes), references, offsets, logits, padding, deterministic, accumulate == "native"
    )


def _is_eager_cpu(value: Tensor) -> bool:
    """Whether the form made for CPUs runs: not while a graph is traced, nor within `torch.func`'s transforms."""
    if value.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not torch._C._are_functorch_transforms_active()


def _takes_kernels(value: Tensor, samples: Tensor, logits: Tensor, *, placed: Tensor) -> bool:
    """Whether the Triton kernels run; a warning where a size alone keeps them from it."""
    if not runs_triton(value, samples, logits, placed):
        return False
    reason = checks.beyond_kernels(value, samples)
    if reason is not None:
        warnings.warn(f"deform_attention runs its reference, not its kernels: {reason}", RuntimeWarning, stacklevel=3)
    return reason is None
