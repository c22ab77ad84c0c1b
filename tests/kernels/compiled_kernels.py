"""Small Triton kernels whose machine code is known beforehand. In a file, because Triton reads their source."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def copy(source, target, BLOCK: tl.constexpr):
    """One vector of BLOCK / 32 numbers a thread."""
    lane = tl.arange(0, BLOCK)
    tl.store(target + lane, tl.load(source + lane))


@triton.jit
def scatter(source, rows, target, ROWS: tl.constexpr, D: tl.constexpr):
    """Add rows of D numbers to the rows of target that `rows` names."""
    row, channel = tl.arange(0, ROWS), tl.arange(0, D)
    values = tl.load(source + row[:, None] * D + channel)
    to = tl.load(rows + row)
    tl.atomic_add(target + to[:, None] * D + channel, values, sem="relaxed")


@triton.jit
def scatter_in_loop(source, rows, target, turns, ROWS: tl.constexpr, D: tl.constexpr):
    """`scatter` of other rows in each turn."""
    row, channel = tl.arange(0, ROWS), tl.arange(0, D)
    for turn in range(turns):
        values = tl.load(source + (turn * ROWS + row)[:, None] * D + channel)
        to = tl.load(rows + turn * ROWS + row)
        tl.atomic_add(target + to[:, None] * D + channel, values, sem="relaxed")


@triton.jit
def hold(source, target, BLOCK: tl.constexpr):
    """All BLOCK numbers are needed after their sum is known: they stay in registers, or are spilled."""
    lane = tl.arange(0, BLOCK)
    values = tl.load(source + lane)
    tl.store(target + lane, values * tl.sum(values, 0))


@triton.jit
def add_up(source, target, turns, BLOCK: tl.constexpr, WORK: tl.constexpr):
    """A loop of one load and WORK dependent multiplications and additions a turn."""
    lane = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for turn in range(turns):
        value = tl.load(source + turn * BLOCK + lane)
        for _ in tl.static_range(WORK):
            total = total * value + 1.5
    tl.store(target + lane, total)
