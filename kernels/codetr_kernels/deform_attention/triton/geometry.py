"""What the forward and the backward kernel share: which queries, which levels, which four cells.

Dimension key: H heads, D channels of a head, Q queries, L levels, P points, S tokens. All tensors are contiguous.

REF is the form of the references: 0 none, the samples are locations in units of the level; 2 points, the samples are
offsets in cells; 4 boxes cxcywh, the samples are offsets in shares of half a box side, P of them.
"""

import triton
import triton.language as tl


@triton.jit
def level_size(level, shapes, size0, size1, size2, size3, size4, size5, ON_HOST: tl.constexpr):
    """Height and width of a level, packed as height << 32 | width in six scalars, or read from `shapes`.

    Scalars, because they need neither a copy to the device nor a cache of copies, and may be captured in a CUDA graph.
    """
    if ON_HOST:
        size = tl.where(level == 0, size0, tl.where(level == 1, size1, size2))
        late = tl.where(level == 3, size3, tl.where(level == 4, size4, size5))
        size = tl.where(level < 3, size, late)
        height = (size >> 32).to(tl.int32)
        width = size.to(tl.int32)
    else:
        height = tl.load(shapes + 2 * level).to(tl.int32)
        width = tl.load(shapes + 2 * level + 1).to(tl.int32)
    return height, width


@triton.jit
def fitting(height, width, start, S):
    """The size of a level, 0 x 0 if it does not lie within the S tokens of `value`: nothing may be read there."""
    end = start.to(tl.int64) + height.to(tl.int64) * width.to(tl.int64)
    fits = (height > 0) & (width > 0) & (end <= S)
    return tl.where(fits, height, 0), tl.where(fits, width, 0), fits


@triton.jit
def query_block(
    Q,
    shapes, size0, size1, size2, size3, size4, size5,
    L: tl.constexpr, ON_HOST: tl.constexpr, BLOCK_Q: tl.constexpr, TILE_W: tl.constexpr,
):  # fmt: skip
    """The queries of this program, and which of them exist.

    TILE_W 0: BLOCK_Q in a row. Else the queries are the cells of the levels, and the program takes a tile TILE_W wide,
    whose samples share more cells than those of a row do.
    """
    block = tl.program_id(0)
    lane = tl.arange(0, BLOCK_Q)
    if TILE_W == 0:
        query = block * BLOCK_Q + lane
        exists = query < Q
    else:
        TILE_H: tl.constexpr = BLOCK_Q // TILE_W
        # The level of this program, found with scalars alone: so the queries stay cheap to compute, and the compiler
        # computes them again where it would otherwise move what is loaded for them between threads.
        tile = block
        first = tl.zeros((), tl.int32)
        tall = tl.zeros((), tl.int32)
        wide = tl.zeros((), tl.int32) + 1
        start = tl.zeros((), tl.int32)
        passed = tl.zeros((), tl.int32)
        for level in range(L):
            height, width = level_size(level, shapes, size0, size1, size2, size3, size4, size5, ON_HOST)
            tiles = tl.cdiv(width, TILE_W) * tl.cdiv(height, TILE_H)
            mine = (block >= passed) & (block < passed + tiles)
            tile = tl.where(mine, block - passed, tile)
            first = tl.where(mine, start, first)
            tall = tl.where(mine, height, tall)
            wide = tl.where(mine, width, wide)
            passed += tiles
            start += height * width
        across = tl.cdiv(wide, TILE_W)
        row = tile // across * TILE_H + lane // TILE_W
        column = tile % across * TILE_W + lane % TILE_W
        query = first + row * wide + column
        exists = (row < tall) & (column < wide)
    # Clamped: a load without a mask costs less than one with, and what the lanes of no query read is not stored.
    return tl.minimum(query, Q - 1), exists


@triton.jit
def placement(
    references, query, level, height, width, L: tl.constexpr, P: tl.constexpr, REF: tl.constexpr, ACC: tl.constexpr
):
    """Base and step per axis: a sample s lies at base + s * step, in cells from the centre of the level's first one."""
    if REF == 0:
        base_x = -0.5
        base_y = -0.5
        step_x = width
        step_y = height
    else:
        reference = references + (query * L + level) * REF
        base_x = tl.load(reference).to(ACC) * width - 0.5
        base_y = tl.load(reference + 1).to(ACC) * height - 0.5
        if REF == 2:
            step_x = 1.0
            step_y = 1.0
        else:
            step_x = tl.load(reference + 2).to(ACC) * width * (0.5 / P)
            step_y = tl.load(reference + 3).to(ACC) * height * (0.5 / P)
    return base_x, base_y, step_x, step_y


@triton.jit
def axis_cells(position, size, length):
    """First of the two cells beside a position on an axis, the share of the second, and whether each is inside.

    Positions outside, infinite or NaN are moved to where both cells are outside, so that the conversion to an integer
    is defined.
    """
    position = tl.where(position > -2.0, position, -2.0)  # NaN is not greater; what `maximum` makes of it varies.
    position = tl.minimum(position, length + 1.0)
    floor = tl.floor(position)
    first = floor.to(tl.int32)
    # Unsigned, a negative cell is a large one: one comparison for both ends.
    end = size.to(tl.uint32, bitcast=True)
    inside_first = first.to(tl.uint32, bitcast=True) < end
    inside_second = (first + 1).to(tl.uint32, bitcast=True) < end
    return first, position - floor, inside_first, inside_second


@triton.jit
def softmax_statistics(logits, row, L: tl.constexpr, P: tl.constexpr, BLOCK_LP: tl.constexpr, ACC: tl.constexpr):
    """Largest logit of each row and the sum of the exponentials relative to it."""
    column = tl.arange(0, BLOCK_LP)[None, :]
    tile = tl.load(logits + row[:, None] * (L * P) + column, mask=column < L * P, other=float("-inf")).to(ACC)
    peak = tl.max(tile, 1)
    return peak, tl.sum(tl.exp(tile - peak[:, None]), 1)


@triton.jit
def unpadded(padding, cell, inside, PADDED: tl.constexpr):
    """`inside`, less the padded cells."""
    if PADDED:
        inside = inside & (tl.load(padding + cell, mask=inside, other=1) == 0)
    return inside


@triton.jit
def rows(base, cell, channel, stride: tl.constexpr, WIDE: tl.constexpr):
    """Pointers (BLOCK_Q, BLOCK_D) to the channels of cells, `stride` elements apart; 64-bit offsets where needed."""
    if WIDE:
        cell = cell.to(tl.int64)
    return base + (cell * stride)[:, None] + channel[None, :]
