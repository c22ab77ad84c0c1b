"""The backward kernel: the same program as the forward one, which recomputes what it needs."""

import triton
import triton.language as tl

from codetr_kernels.deform_attention.triton.forward import SIZES
from codetr_kernels.deform_attention.triton.geometry import (
    axis_cells,
    fitting,
    level_size,
    placement,
    query_block,
    rows,
    softmax_statistics,
    unpadded,
)


@triton.jit
def add_rows(target, contribution, inside, scale, FIXED: tl.constexpr):
    """Add rows into the gradient of value, in no order: relaxed atomics, of vectors where the type allows.

    FIXED: into 64-bit integers, as multiples of 1 / scale, whose sum is the same in every order.
    """
    if FIXED:
        contribution = contribution * scale
    tl.atomic_add(target, contribution.to(target.dtype.element_ty), mask=inside, sem="relaxed")


@triton.jit(do_not_specialize=SIZES)
def backward_kernel(
    grad_output, output, value, padding, references, samples, logits, scale,
    grad_value, grad_references, grad_samples, grad_logits, shapes,
    size0, size1, size2, size3, size4, size5, S, Q,
    H: tl.constexpr, D: tl.constexpr, L: tl.constexpr, P: tl.constexpr, REF: tl.constexpr,
    PADDED: tl.constexpr, ON_HOST: tl.constexpr, WIDE: tl.constexpr, ACC: tl.constexpr,
    NEEDS_VALUE: tl.constexpr, NEEDS_REFERENCES: tl.constexpr, FIXED: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_LP: tl.constexpr,
    BLOCK_Q: tl.constexpr, UNROLL: tl.constexpr, TILE_W: tl.constexpr,
):  # fmt: skip
    """Gradients of what `forward_kernel` reads; its arguments and grid.

    grad_value (B, S, H, D), zeros before. grad_references (B, Q, H, L, REF), to be summed over H. scale: one number, of
    `add_rows`. `output` is read with REF 2 and 4 alone: the softmax's gradient is weight * (d - delta), d the gradient
    of the weight and delta = sum of grad_output * output, the mean of d under the weights.
    """
    query, exists = query_block(Q, shapes, size0, size1, size2, size3, size4, size5, L, ON_HOST, BLOCK_Q, TILE_W)
    if WIDE:
        query = query.to(tl.int64)
    head = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    row = query * H + head
    value += image * S * (H * D) + head * D
    grad_value += image * S * (H * D) + head * D
    references += image * Q * (L * REF)
    grad_references += image * Q * (H * L * REF)
    samples += image * Q * (H * L * P * 2)
    grad_samples += image * Q * (H * L * P * 2)
    logits += image * Q * (H * L * P)
    grad_logits += image * Q * (H * L * P)
    padding += image * S
    channel = tl.arange(0, BLOCK_D)
    real = channel < D
    here = image * Q * (H * D) + row[:, None] * D + channel[None, :]
    grad = tl.load(grad_output + here, mask=exists[:, None] & real[None, :], other=0.0).to(ACC)
    if REF != 0:
        out = tl.load(output + here, mask=exists[:, None] & real[None, :], other=0.0).to(ACC)
        delta = tl.sum(grad * out, 1)
        peak, total = softmax_statistics(logits, row, L, P, BLOCK_LP, ACC)
        share = 1.0 / total
    factor = tl.load(scale) if FIXED else 1.0
    start = tl.zeros((), tl.int32)
    for level in range(L):
        height, width = level_size(level, shapes, size0, size1, size2, size3, size4, size5, ON_HOST)
        if not ON_HOST:
            height, width, _ = fitting(height, width, start, S)
        tall = height.to(ACC)
        wide = width.to(ACC)
        base_x, base_y, step_x, step_y = placement(references, query, level, tall, wide, L, P, REF, ACC)
        level_value = value + start.to(tl.int64) * (H * D)
        level_grad = grad_value + start.to(tl.int64) * (H * D)
        level_padding = padding + start
        if NEEDS_REFERENCES:
            grad_x = tl.zeros((BLOCK_Q,), ACC)
            grad_y = tl.zeros((BLOCK_Q,), ACC)
            grad_w = tl.zeros((BLOCK_Q,), ACC)
            grad_h = tl.zeros((BLOCK_Q,), ACC)
        for point in tl.range(0, P, loop_unroll_factor=UNROLL):
            sample = row * (L * P) + (level * P + point)
            shift_x = tl.load(samples + 2 * sample).to(ACC)
            shift_y = tl.load(samples + 2 * sample + 1).to(ACC)
            weight = tl.load(logits + sample).to(ACC)
            if REF != 0:
                weight = tl.exp(weight - peak) * share
            left, part_x, in_left, in_right = axis_cells(shift_x * step_x + base_x, width, wide)
            top, part_y, in_top, in_bottom = axis_cells(shift_y * step_y + base_y, height, tall)
            cell = top * width + left
            below = cell + width
            in00 = (exists & unpadded(level_padding, cell, in_top & in_left, PADDED))[:, None] & real
            in01 = (exists & unpadded(level_padding, cell + 1, in_top & in_right, PADDED))[:, None] & real
            in10 = (exists & unpadded(level_padding, below, in_bottom & in_left, PADDED))[:, None] & real
            in11 = (exists & unpadded(level_padding, below + 1, in_bottom & in_right, PADDED))[:, None] & real
            v00 = tl.load(rows(level_value, cell, channel, H * D, WIDE), mask=in00, other=0.0)
            v01 = tl.load(rows(level_value, cell + 1, channel, H * D, WIDE), mask=in01, other=0.0)
            v10 = tl.load(rows(level_value, below, channel, H * D, WIDE), mask=in10, other=0.0)
            v11 = tl.load(rows(level_value, below + 1, channel, H * D, WIDE), mask=in11, other=0.0)
            # One dot product a cell serves all three gradients of the sample.
            dot00 = tl.sum(grad * v00.to(ACC), 1)
            dot01 = tl.sum(grad * v01.to(ACC), 1)
            dot10 = tl.sum(grad * v10.to(ACC), 1)
            dot11 = tl.sum(grad * v11.to(ACC), 1)
            upper = dot00 + part_x * (dot01 - dot00)
            lower = dot10 + part_x * (dot11 - dot10)
            grad_weight = upper + part_y * (lower - upper)
            slope_x = dot01 - dot00 + part_y * ((dot11 - dot10) - (dot01 - dot00))
            slope_x *= weight
            slope_y = (lower - upper) * weight
            if REF != 0:
                grad_weight = weight * (grad_weight - delta)
            tl.store(grad_logits + sample, grad_weight.to(grad_logits.dtype.element_ty), mask=exists)
            to = grad_samples + 2 * sample
            tl.store(to, (slope_x * step_x).to(grad_samples.dtype.element_ty), mask=exists)
            tl.store(to + 1, (slope_y * step_y).to(grad_samples.dtype.element_ty), mask=exists)
            if NEEDS_REFERENCES:
                grad_x += slope_x
                grad_y += slope_y
                grad_w += slope_x * shift_x
                grad_h += slope_y * shift_y
            if NEEDS_VALUE:
                top_part = (1.0 - part_y) * weight
                low_part = part_y * weight
                add_rows(
                    rows(level_grad, cell, channel, H * D, WIDE),
                    grad * ((1.0 - part_x) * top_part)[:, None], in00, factor, FIXED,
                )  # fmt: skip
                add_rows(
                    rows(level_grad, cell + 1, channel, H * D, WIDE),
                    grad * (part_x * top_part)[:, None], in01, factor, FIXED,
                )  # fmt: skip
                add_rows(
                    rows(level_grad, below, channel, H * D, WIDE),
                    grad * ((1.0 - part_x) * low_part)[:, None], in10, factor, FIXED,
                )  # fmt: skip
                add_rows(
                    rows(level_grad, below + 1, channel, H * D, WIDE),
                    grad * (part_x * low_part)[:, None], in11, factor, FIXED,
                )  # fmt: skip
        if NEEDS_REFERENCES:
            to = grad_references + (row * L + level) * REF
            tl.store(to, grad_x * wide, mask=exists)
            tl.store(to + 1, grad_y * tall, mask=exists)
            if REF == 4:
                tl.store(to + 2, grad_w * wide * (0.5 / P), mask=exists)
                tl.store(to + 3, grad_h * tall * (0.5 / P), mask=exists)
        start += height * width
