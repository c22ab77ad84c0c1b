"""The forward kernel: a block of queries by one head a program, channels contiguous."""

import triton
import triton.language as tl

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

SIZES = ("size0", "size1", "size2", "size3", "size4", "size5", "S", "Q")
"""They change from image to image: specialised on their values, each would be compiled anew."""


@triton.jit(do_not_specialize=SIZES)
def forward_kernel(
    value, padding, references, samples, logits, output, shapes,
    size0, size1, size2, size3, size4, size5, S, Q,
    H: tl.constexpr, D: tl.constexpr, L: tl.constexpr, P: tl.constexpr, REF: tl.constexpr,
    PADDED: tl.constexpr, ON_HOST: tl.constexpr, WIDE: tl.constexpr, ACC: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_LP: tl.constexpr,
    BLOCK_Q: tl.constexpr, UNROLL: tl.constexpr, TILE_W: tl.constexpr,
):  # fmt: skip
    """output (B, Q, H, D) from value (B, S, H, D), samples (B, Q, H, L, P, 2) and logits (B, Q, H, L, P).

    Grid (blocks of queries, H, B). With REF 0, `logits` holds the weights; else they are its softmax, whose sum is
    divided out at the end.
    """
    query, exists = query_block(Q, shapes, size0, size1, size2, size3, size4, size5, L, ON_HOST, BLOCK_Q, TILE_W)
    if WIDE:
        query = query.to(tl.int64)
    head = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    row = query * H + head
    value += image * S * (H * D) + head * D
    references += image * Q * (L * REF)
    samples += image * Q * (H * L * P * 2)
    logits += image * Q * (H * L * P)
    output += image * Q * (H * D)
    padding += image * S
    channel = tl.arange(0, BLOCK_D)
    real = channel < D
    if REF != 0:
        peak, total = softmax_statistics(logits, row, L, P, BLOCK_LP, ACC)
    sums = tl.zeros((BLOCK_Q, BLOCK_D), ACC)
    start = tl.zeros((), tl.int32)
    for level in range(L):
        height, width = level_size(level, shapes, size0, size1, size2, size3, size4, size5, ON_HOST)
        if not ON_HOST:
            height, width, fits = fitting(height, width, start, S)
            sums += tl.where(fits, 0.0, float("nan"))
        tall = height.to(ACC)
        wide = width.to(ACC)
        base_x, base_y, step_x, step_y = placement(references, query, level, tall, wide, L, P, REF, ACC)
        level_value = value + start.to(tl.int64) * (H * D)
        level_padding = padding + start
        for point in tl.range(0, P, loop_unroll_factor=UNROLL):
            sample = row * (L * P) + (level * P + point)
            x = tl.load(samples + 2 * sample).to(ACC) * step_x + base_x
            y = tl.load(samples + 2 * sample + 1).to(ACC) * step_y + base_y
            weight = tl.load(logits + sample).to(ACC)
            if REF != 0:
                weight = tl.exp(weight - peak)
            left, part_x, in_left, in_right = axis_cells(x, width, wide)
            top, part_y, in_top, in_bottom = axis_cells(y, height, tall)
            cell = top * width + left
            below = cell + width
            in00 = unpadded(level_padding, cell, in_top & in_left, PADDED)
            in01 = unpadded(level_padding, cell + 1, in_top & in_right, PADDED)
            in10 = unpadded(level_padding, below, in_bottom & in_left, PADDED)
            in11 = unpadded(level_padding, below + 1, in_bottom & in_right, PADDED)
            v00 = tl.load(rows(level_value, cell, channel, H * D, WIDE), mask=in00[:, None] & real, other=0.0)
            v01 = tl.load(rows(level_value, cell + 1, channel, H * D, WIDE), mask=in01[:, None] & real, other=0.0)
            v10 = tl.load(rows(level_value, below, channel, H * D, WIDE), mask=in10[:, None] & real, other=0.0)
            v11 = tl.load(rows(level_value, below + 1, channel, H * D, WIDE), mask=in11[:, None] & real, other=0.0)
            upper = (1.0 - part_y) * weight
            lower = part_y * weight
            sums += ((1.0 - part_x) * upper)[:, None] * v00.to(ACC)
            sums += (part_x * upper)[:, None] * v01.to(ACC)
            sums += ((1.0 - part_x) * lower)[:, None] * v10.to(ACC)
            sums += (part_x * lower)[:, None] * v11.to(ACC)
        start += height * width
    if REF != 0:
        sums = sums / total[:, None]
    target = output + row[:, None] * D + channel[None, :]
    tl.store(target, sums.to(output.dtype.element_ty), mask=exists[:, None] & real[None, :])
