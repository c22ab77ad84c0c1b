"""Multi-scale deformable attention in plain PyTorch: the specification that the kernels are held to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def deform_attention_reference(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """One `grid_sample` a level. Arguments and result as in `deform_attention`.

    Sampling runs in the wider of the types of `value` and `locations`, at least float32, because normalised locations
    in bfloat16 are off by up to a third of a cell on a level 167 cells wide.
    """
    batch, _, heads, channels = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    dtype = torch.promote_types(torch.promote_types(value.dtype, locations.dtype), torch.float32)
    levels = value.to(dtype).split([height * width for height, width in shapes], dim=1)
    grids = 2 * locations.to(dtype) - 1
    output = value.new_zeros(batch * heads, channels, queries, dtype=dtype)
    for index, ((height, width), level) in enumerate(zip(shapes, levels, strict=True)):
        plane = level.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        grid = grids[:, :, :, index].transpose(1, 2).reshape(batch * heads, queries, points, 2)
        weight = weights[:, :, :, index].to(dtype).transpose(1, 2).reshape(batch * heads, 1, queries, points)
        sampled = F.grid_sample(plane, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        output = output + (sampled * weight).sum(-1)
    return output.view(batch, heads * channels, queries).transpose(1, 2).to(value.dtype)
