"""Multi-scale deformable attention in plain PyTorch: the specification that the kernels are held to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def deform_attention_reference(
    value: Tensor, shapes: Sequence[tuple[int, int]] | Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """One `grid_sample` a level. Arguments and result as in `deform_attention`.

    Sampling runs in the wider of the types of `value` and `locations`, at least float32, because normalised locations
    in bfloat16 are off by up to a third of a cell on a level 167 cells wide.
    """
    batch, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    dtype = torch.promote_types(torch.promote_types(value.dtype, locations.dtype), torch.float32)
    sizes = level_sizes(shapes)
    levels = value.to(dtype).split([height * width for height, width in sizes], dim=1)
    # Nowhere: what a location that is no number reads; grid_sample itself leaves that open.
    grids = torch.nan_to_num(2 * locations.to(dtype) - 1, nan=OUTSIDE, posinf=OUTSIDE, neginf=OUTSIDE)
    output = value.new_zeros(batch * heads, channels, queries, dtype=dtype)
    for index, ((height, width), level) in enumerate(zip(sizes, levels, strict=True)):
        plane = level.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        grid = grids[:, :, :, index].transpose(1, 2).reshape(batch * heads, queries, points, 2)
        weight = weights[:, :, :, index].to(dtype).transpose(1, 2).reshape(batch * heads, 1, queries, points)
        sampled = F.grid_sample(plane, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        output = output + (sampled * weight).sum(-1)
    return output.view(batch, heads * channels, queries).transpose(1, 2).to(value.dtype)


OUTSIDE = -16.0
"""A grid coordinate outside every level, of whatever size."""


def deform_attention_fused_reference(
    value: Tensor,
    shapes: Sequence[tuple[int, int]] | Tensor,
    references: Tensor,
    offsets: Tensor,
    logits: Tensor,
    padding: Tensor | None = None,
) -> Tensor:
    """The chain written out. Arguments and result as in `deform_attention_fused`.

    Locations and the softmax are computed in the wider of float32 and the inputs' own types.
    """
    dtype = torch.promote_types(torch.promote_types(value.dtype, references.dtype), torch.float32)
    if padding is not None:
        value = value.masked_fill(padding[:, :, None, None], 0.0)
    locations = sampling_locations(offsets.to(dtype), references.to(dtype), shapes)
    weights = logits.to(dtype).softmax(-1).view(offsets.shape[:-1])
    return deform_attention_reference(value, shapes, locations, weights)


def sampling_locations(offsets: Tensor, references: Tensor, shapes: Sequence[tuple[int, int]] | Tensor) -> Tensor:
    """Where to sample, (B, Q, H, L, P, 2), x then y, in units of each level.

    offsets: (B, Q, H, L, P, 2), in cells for points, in shares of half a box side, P of them, for boxes.
    references: (B, Q, L, 2) points or (B, Q, L, 4) boxes cxcywh, in units of each level.
    Source: Zhu et al., arXiv 2010.04159, equation 3 and appendix A.4.
    """
    centre = references[:, :, None, :, None, :2]
    if references.shape[-1] == 2:
        return centre + offsets / level_sides(shapes, offsets)[:, None]
    return centre + offsets / offsets.shape[-2] * references[:, :, None, :, None, 2:] * 0.5


def level_sides(shapes: Sequence[tuple[int, int]] | Tensor, like: Tensor) -> Tensor:
    """(L, 2), the width and height of each level, in the type and on the device of `like`; no copy from the host."""
    if isinstance(shapes, Tensor):
        return shapes.flip(-1).to(like.device, like.dtype)
    # Filled on the device: a tensor made from a list would be copied from the host, which waits.
    sides = [like.new_full((), float(side)) for height, width in shapes for side in (width, height)]
    return torch.stack(sides).view(len(shapes), 2)


def level_sizes(shapes: Sequence[tuple[int, int]] | Tensor) -> list[tuple[int, int]]:
    """The (height, width) of each level as numbers; waits for the device that holds `shapes`, if one does."""
    if isinstance(shapes, Tensor):
        return [(height, width) for height, width in shapes.tolist()]
    return [(height, width) for height, width in shapes]
