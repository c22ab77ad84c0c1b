"""Multi-scale deformable attention: contract, checks and dispatch.

Source: Zhu et al., Deformable DETR, arXiv 2010.04159, equation 3.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from codetr_kernels.deform_attention.reference import deform_attention_reference

__all__ = ["deform_attention", "deform_attention_reference"]


def deform_attention(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples of `value`, taken at L x P places for each query and head.

    Dimension key: B batch, S tokens of all levels, H heads, D channels of a head, Q queries, L levels, P points.

    value: (B, S, H, D), levels one after the other, each row-major. shapes: (height, width) of each level, sum of
    products S.
    locations: (B, Q, H, L, P, 2), x then y, 0 and 1 the outer edges of the level's first and last cell (cell centres at
    +0.5, as `align_corners=False`); samples outside read zeros. weights: (B, Q, H, L, P), used as they are.
    Returns (B, Q, H * D), heads one after the other, in the dtype of `value`. Gradients flow to value, locations and
    weights.

    Raises: ValueError for shapes that do not fit, tensors that are not floating-point, or tensors on several devices.
    """
    _check(value, shapes, locations, weights)
    return deform_attention_reference(value, shapes, locations, weights)


def _check(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> None:
    if value.ndim != 4:
        raise ValueError(f"value must be (B, S, H, D), got {tuple(value.shape)}")
    batch, tokens, heads, _ = value.shape
    if locations.ndim != 6 or locations.shape[-1] != 2:
        raise ValueError(f"locations must be (B, Q, H, L, P, 2), got {tuple(locations.shape)}")
    if weights.shape != locations.shape[:-1]:
        raise ValueError(f"weights must be {tuple(locations.shape[:-1])} as locations, got {tuple(weights.shape)}")
    if (locations.shape[0], locations.shape[2]) != (batch, heads):
        raise ValueError(
            f"value has batch {batch} and {heads} heads, "
            f"locations has batch {locations.shape[0]} and {locations.shape[2]} heads"
        )
    if len(shapes) != locations.shape[3]:
        raise ValueError(f"{len(shapes)} level shapes, but locations has {locations.shape[3]} levels")
    if any(height <= 0 or width <= 0 for height, width in shapes):
        raise ValueError(f"every level needs a positive height and width, got {tuple(shapes)}")
    covered = sum(height * width for height, width in shapes)
    if covered != tokens:
        raise ValueError(f"level shapes {tuple(shapes)} cover {covered} tokens, value has {tokens}")
    if not (value.is_floating_point() and locations.is_floating_point() and weights.is_floating_point()):
        raise ValueError(f"floating-point tensors needed, got {value.dtype}, {locations.dtype}, {weights.dtype}")
    if not value.device == locations.device == weights.device:
        raise ValueError(f"one device needed, got {value.device}, {locations.device}, {weights.device}")
