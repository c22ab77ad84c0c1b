"""Multi-scale deformable attention on the CPU, as four weighted sums of rows, one for each corner of the cells sampled.

`embedding_bag` gathers and sums in one pass, so that the samples, (B, Q, H, L, P, D) of them, never exist in memory.
Every level gets a border of zeros, one cell wide, so that no corner needs a mask. benchmarks/deform_attention_cpu.py
measures it beside the reference and other forms.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from codetr_kernels.deform_attention.checks import Shapes
from codetr_kernels.deform_attention.reference import deform_attention_reference, level_sizes, sampling_locations

Sizes = list[tuple[int, int]]

LARGEST = 2**31 - 1
"""The largest number of rows or samples that 32-bit indices, the faster ones, can count."""


def deform_attention_cpu(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Arguments, types and result as in `deform_attention_reference`.

    Second derivatives go through the reference, and so does everything while a graph is compiled.
    """
    if torch.compiler.is_compiling():
        return deform_attention_reference(value, shapes, locations, weights)
    dtype = torch.promote_types(torch.promote_types(value.dtype, locations.dtype), torch.float32)
    given = value.to(dtype), locations.to(dtype), weights.to(dtype)
    output: Tensor = _SumOfRows.apply(*given, level_sizes(shapes))  # type: ignore[no-untyped-call]
    return output.to(value.dtype)


def deform_attention_fused_cpu(
    value: Tensor,
    shapes: Shapes,
    references: Tensor,
    offsets: Tensor,
    logits: Tensor,
    padding: Tensor | None = None,
) -> Tensor:
    """Arguments, types and result as in `deform_attention_fused_reference`."""
    dtype = torch.promote_types(torch.promote_types(value.dtype, references.dtype), torch.float32)
    if padding is not None:
        value = value.masked_fill(padding[:, :, None, None], 0.0)
    locations = sampling_locations(offsets.to(dtype), references.to(dtype), shapes)
    weights = logits.to(dtype).softmax(-1).view(offsets.shape[:-1])
    return deform_attention_cpu(value, shapes, locations, weights)


class _Corners(NamedTuple):
    """Where samples lie in the rows of the table, (B * Q * H, L * P) each.

    top: the row of the upper left corner. bottom: of the lower left one. right: from a left corner to its right one.
    x, y: the place between them, from 0 to 1.
    """

    top: Tensor
    bottom: Tensor
    x: Tensor
    y: Tensor
    right: int

    def rows(self) -> tuple[tuple[Tensor, int], ...]:
        """Upper left, upper right, lower left, lower right: rows, and how much to add to them."""
        return (self.top, 0), (self.top, self.right), (self.bottom, 0), (self.bottom, self.right)

    def shares(self, weights: Tensor) -> tuple[Tensor, ...]:
        """The share of each corner in that order, times the weight of the sample."""
        lower = weights * self.y
        upper = weights - lower
        upper_right, lower_right = upper * self.x, lower * self.x
        return upper - upper_right, upper_right, lower - lower_right, lower_right


class _SumOfRows(torch.autograd.Function):
    """All in one type; `sizes` are numbers."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, locations: Tensor, weights: Tensor, sizes: Sizes) -> Tensor:
        table = _table(value, sizes)
        corners = _corners(locations, sizes, table.shape[1])
        rows, weight = table.view(-1, table.shape[-1]), weights.reshape(corners.x.shape)
        output = value.new_zeros(len(weight), value.shape[-1])
        for (index, shift), share in zip(corners.rows(), corners.shares(weight), strict=True):
            output += F.embedding_bag(index, rows[shift:], mode="sum", per_sample_weights=share)
        ctx.save_for_backward(value, locations, weights, table, corners.top, corners.bottom, corners.x, corners.y)
        ctx.sizes, ctx.right = sizes, corners.right
        return output.view(*locations.shape[:2], value.shape[2] * value.shape[3])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        value, locations, weights, table, *places = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_differentiable(ctx.needs_input_grad, value, locations, weights, ctx.sizes, grads[0]), None
        top, bottom, x, y = places
        corners, weight = _Corners(top, bottom, x, y, ctx.right), weights.reshape(x.shape)
        grad = grads[0].reshape(len(x), value.shape[-1]).contiguous()
        by_value = by_locations = by_weights = None
        if ctx.needs_input_grad[0]:
            by_value = _inside(_table_gradient(grad, table, corners, weight), ctx.sizes, value)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            by_locations, by_weights = _sample_gradients(grad, table, corners, weight, locations, ctx.sizes)
        return by_value, by_locations, by_weights, None


def _differentiable(
    needed: tuple[bool, ...], value: Tensor, locations: Tensor, weights: Tensor, sizes: Sizes, grad: Tensor
) -> list[Tensor | None]:
    """The gradients as functions that can be differentiated again."""
    inputs = [tensor for tensor, need in zip((value, locations, weights), needed, strict=False) if need]
    output = deform_attention_reference(value, sizes, locations, weights)
    found = iter(torch.autograd.grad(output, inputs, grad, create_graph=True))
    return [next(found) if need else None for need in needed[:3]]


def _levels(table: Tensor, sizes: Sizes) -> Iterator[Tensor]:
    """The levels of (B, S', H, D) without their borders, (B, height, width, H, D), as views."""
    for (height, width), level in zip(sizes, table.split(_bordered(sizes), 1), strict=True):
        yield level.unflatten(1, (height + 2, width + 2))[:, 1:-1, 1:-1]


def _bordered(sizes: Sizes) -> list[int]:
    """Cells of each level with its border."""
    return [(height + 2) * (width + 2) for height, width in sizes]


def _table(value: Tensor, sizes: Sizes) -> Tensor:
    """`value` with borders: (B, S', H, D)."""
    batch, _, heads, channels = value.shape
    table = value.new_zeros(batch, sum(_bordered(sizes)), heads, channels)
    given = value.split([height * width for height, width in sizes], 1)
    for level, source, size in zip(_levels(table, sizes), given, sizes, strict=True):
        level.copy_(source.unflatten(1, size))
    return table


def _inside(table: Tensor, sizes: Sizes, like: Tensor) -> Tensor:
    """The other way round."""
    value = torch.empty_like(like, memory_format=torch.contiguous_format)
    wanted = value.split([height * width for height, width in sizes], 1)
    for level, target, size in zip(_levels(table, sizes), wanted, sizes, strict=True):
        target.unflatten(1, size).copy_(level)
    return value


def _each(numbers: list[int], locations: Tensor, dtype: torch.dtype) -> Tensor:
    """A number of each level for each sample of a query: (H * L * P,), so that operations run over long rows."""
    heads, levels, points = locations.shape[2:5]
    return torch.tensor(numbers, dtype=dtype)[:, None].expand(heads, levels, points).flatten()


def _corners(locations: Tensor, sizes: Sizes, cells: int) -> _Corners:
    """Samples outside of their level, at infinity or NaN get the border's upper right corner: zeros all round."""
    batch, queries, heads, levels, points, _ = locations.shape
    x, y = locations.reshape(batch, queries, heads * levels * points, 2).unbind(-1)
    width, height = (_each([size[axis] for size in sizes], locations, locations.dtype) for axis in (1, 0))
    x, y = x * width - 0.5, y * height - 0.5
    inside = (x >= -1) & (x < width) & (y >= -1) & (y < height)
    x, y = torch.where(inside, x, width), torch.where(inside, y, -1.0)
    left, above = x.floor(), y.floor()
    x, y = x - left, y - above
    kind = torch.int32 if max(batch * cells * heads, x.numel()) <= LARGEST else torch.int64
    # Rows of (B, S', H): the first cell of a level is behind a row and a column of border.
    starts = [start + size[1] + 3 for start, size in zip(accumulate(_bordered(sizes), initial=0), sizes, strict=False)]
    head = torch.arange(heads, dtype=kind).repeat_interleave(levels * points)
    image = torch.arange(0, batch * cells * heads, cells * heads, dtype=kind).view(batch, 1, 1)
    down = _each([(size[1] + 2) * heads for size in sizes], locations, kind)
    top = left.to(kind).mul_(heads).add_(above.to(kind).mul_(down))
    top.add_(_each(starts, locations, kind) * heads + head).add_(image)
    top, bottom, x, y = (tensor.reshape(-1, levels * points) for tensor in (top, top + down, x, y))
    return _Corners(top, bottom, x, y, heads)


def _table_gradient(grad: Tensor, table: Tensor, corners: _Corners, weights: Tensor) -> Tensor:
    """The gradient of the table. Samples are sorted by cell once, then summed for each corner and moved there."""
    rows, order = corners.top.flatten().sort()
    counts = rows.unique_consecutive(return_counts=True)[1]
    first = counts.cumsum(0) - counts
    query = (order // weights.shape[1]).to(rows.dtype)
    found, one = torch.zeros_like(table), order[first]
    by_row = found.view(-1, table.shape[-1])
    for (index, shift), share in zip(corners.rows(), corners.shares(weights), strict=True):
        sums = F.embedding_bag(query, grad, first.to(rows.dtype), mode="sum", per_sample_weights=share.flatten()[order])
        by_row.index_add_(0, index.flatten()[one] + shift, sums)
    return found


def _sample_gradients(
    grad: Tensor, table: Tensor, corners: _Corners, weights: Tensor, locations: Tensor, sizes: Sizes
) -> tuple[Tensor, Tensor]:
    """The gradients of locations and weights, from the product of the output's gradient with each corner's row."""
    rows, points = table.view(-1, table.shape[-1]), weights.shape[1]
    kind = corners.top.dtype
    bags = torch.arange(0, weights.numel(), points, dtype=kind), torch.arange(len(weights), dtype=kind)
    upper_left, upper_right, lower_left, lower_right = (
        torch.ops.aten._embedding_bag_per_sample_weights_backward(
            grad, rows[shift:], index.flatten(), bags[0], bags[1].repeat_interleave(points), 0
        ).view(weights.shape)
        for index, shift in corners.rows()
    )
    along_upper, along_lower = upper_right - upper_left, lower_right - lower_left
    upper, lower = upper_left + corners.x * along_upper, lower_left + corners.x * along_lower
    down = lower - upper
    by_x = (along_upper + corners.y * (along_lower - along_upper)) * weights
    by_y = down * weights
    sides = torch.tensor([(width, height) for height, width in sizes], dtype=locations.dtype)
    by_locations = torch.stack((by_x, by_y), -1).view(locations.shape) * sides[:, None]
    return by_locations, (upper + corners.y * down).view(locations.shape[:-1])
