"""The solvers on the device: one program a problem, rows are objects, lanes are queries.

Shortest augmenting paths: Crouse, On implementing 2D rectangular assignment algorithms, 2016. All state of a row is
kept at the column that it is matched to, so that no row is looked up: row4col, the row; u4col, its dual; and pred, the
column whose row reached a column, -1 for the row being inserted. A path is turned over by walking pred.

More rows than columns: a row may be left out at cost zero, which is a column of dual zero that all rows share. The
first surplus row sees its cost as beyond any other, so all columns are scanned; the duals are then shifted by that
cost, after which it is zero. From there on leaving out is a candidate as any other.

Distances are compared as integers of the same order: on NVIDIA their minimum is one instruction a warp. No distance
is -0, which would come before 0: the first is 0 + c, and no sum of others is -0 unless both are.
"""

from __future__ import annotations

import triton
import triton.language as tl

LARGEST = tl.constexpr(2.0**100)
"""Finite costs are clamped to its size, about 1e30: a path of 2**27 such costs is finite in float32."""

NON_FINITE = tl.constexpr(1)
BOUND_REACHED = tl.constexpr(2)

UNSPECIALIZED = ["M", "N", "K"]
"""Sizes that change from step to step: no compilation for each."""


@triton.jit
def ordered(x):
    """Integers in the order of floats, and nothing but them; its own inverse on the integers' bits."""
    if x.dtype == tl.float64:
        bits = x.to(tl.int64, bitcast=True)
        return bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)
    else:
        bits = x.to(tl.int32, bitcast=True)
        return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def unordered(key):
    """The float of an integer of `ordered`."""
    if key.dtype == tl.int64:
        return (key ^ ((key >> 63) & 0x7FFFFFFFFFFFFFFF)).to(tl.float64, bitcast=True)
    else:
        return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def last_key(ACC: tl.constexpr):
    """Behind the key of every distance."""
    if tl.float64 == ACC:
        return tl.full((), 0x7FFFFFFFFFFFFFFF, tl.int64)
    else:
        return tl.full((), 0x7FFFFFFF, tl.int32)


@triton.jit
def lane_of(x, here):
    """The float at the one lane that is `here`. Summed as an integer: -0 stays, and it is one instruction a warp."""
    if x.dtype == tl.float64:
        return tl.sum(tl.where(here, x.to(tl.int64, bitcast=True), 0), 0).to(tl.float64, bitcast=True)
    else:
        return tl.sum(tl.where(here, x.to(tl.int32, bitcast=True), 0), 0).to(tl.float32, bitcast=True)


@triton.jit
def survey(cost, size, rows, ACC: tl.constexpr, BLOCK: tl.constexpr):
    """Of a problem's costs: is any not to be used as it is; status; what stands for -inf; for inf and NaN."""
    lane = tl.arange(0, BLOCK)
    unusable = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, size, BLOCK):
        c = tl.load(cost + start + lane, mask=start + lane < size, other=0.0).to(ACC)
        unusable = tl.where(tl.abs(c) <= LARGEST, unusable, 1)
    dirty = tl.max(unusable, 0)
    status, low, high = tl.full((), 0, tl.int32), tl.full((), 0.0, ACC), tl.full((), 0.0, ACC)
    if dirty > 0:
        status, low, high = replacements(cost, size, rows, ACC, BLOCK // 4)
    return dirty, status, low, high


@triton.jit
def replacements(cost, size, rows, ACC: tl.constexpr, BLOCK: tl.constexpr):
    """Status, what stands for -inf, and what for inf and NaN."""
    lane = tl.arange(0, BLOCK)
    least, most = tl.full((BLOCK,), float("inf"), ACC), tl.full((BLOCK,), float("-inf"), ACC)
    odd = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, size, BLOCK):
        inside = start + lane < size
        c = tl.load(cost + start + lane, mask=inside, other=float("nan")).to(ACC)
        finite = tl.abs(c) < float("inf")
        clamped = tl.where(c > LARGEST, LARGEST, tl.where(c < -LARGEST, -LARGEST, c))
        least = tl.where(finite & (clamped < least), clamped, least)
        most = tl.where(finite & (clamped > most), clamped, most)
        odd = tl.where(finite | (inside == 0), odd, 1)
    low, high = tl.min(least, 0), tl.max(most, 0)
    has_finite = low <= high
    low, high = tl.where(has_finite, low, 0.0), tl.where(has_finite, high, 0.0)
    # Where all finite costs are equal, their size serves; where that is zero, 1.
    spread = tl.where(high > low, high - low, tl.where(high == 0.0, 1.0, tl.abs(high)))
    margin = (rows + 1).to(ACC) * spread
    return tl.where(tl.max(odd, 0) > 0, NON_FINITE, 0), low - margin, high + margin


@triton.jit
def load_costs(address, mask, dirty, low, high, ACC: tl.constexpr):
    """Costs as they are solved for."""
    c = tl.load(address, mask=mask, other=0.0).to(ACC)
    if dirty > 0:
        clamped = tl.where(c > LARGEST, LARGEST, tl.where(c < -LARGEST, -LARGEST, c))
        c = tl.where(c < float("inf"), tl.where(c > float("-inf"), clamped, low), high)
    return c


@triton.jit
def clear(assigned, size, BLOCK: tl.constexpr):
    """Nothing is matched yet."""
    lane = tl.arange(0, BLOCK)
    for start in range(0, size, BLOCK):
        tl.store(assigned + start + lane, tl.full((BLOCK,), -1, tl.int64), mask=start + lane < size)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def solve_in_registers(
    cost, num_objects, assigned, status, M, N, K, ACC: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK: tl.constexpr
):
    """cost (P, M, N), num_objects (P,) -> assigned (P, K * M) int64, status (P,). All state of N <= BLOCK_N columns
    is in registers; what one thread has and all need passes through reductions, so warps meet nowhere in memory."""
    problem = tl.program_id(0).to(tl.int64)
    cost += problem * M * N
    assigned += problem * M * K
    n = tl.minimum(tl.maximum(tl.load(num_objects + problem), 0), M).to(tl.int32)
    rows = n * K
    clear(assigned, M * K, BLOCK)
    dirty, flags, low, high = survey(cost, n * N, rows, ACC, BLOCK)

    j = tl.arange(0, BLOCK_N)
    inside = j < N
    last, zero = last_key(ACC), tl.full((), 0.0, ACC)
    v, u4col = tl.zeros((BLOCK_N,), ACC), tl.zeros((BLOCK_N,), ACC)
    row4col = tl.full((BLOCK_N,), -1, tl.int32)
    ahead = load_costs(cost + j, inside & (rows > 0), dirty, low, high, ACC)
    for i in range(0, rows):
        c = ahead
        # The next row's costs travel while this row is inserted, most often in a single step.
        ahead = load_costs(cost + (i + 1) % n * N + j, inside & (i + 1 < rows), dirty, low, high, ACC)
        short, pred = tl.full((BLOCK_N,), float("inf"), ACC), tl.full((BLOCK_N,), -1, tl.int32)
        todo = inside
        reached, target = -1, -1
        u, delta, total = zero, zero, zero
        searching, steps = 1, 0
        while (searching > 0) & (steps <= N):
            steps += 1
            distance = (c - v) + (delta - u)
            closer = todo & (distance < short)
            short, pred = tl.where(closer, distance, short), tl.where(closer, reached, pred)
            keys = tl.where(todo, ordered(short), last)
            key = tl.min(keys, 0)
            nearest = unordered(key)
            candidates = j + tl.where(row4col < 0, 0, BLOCK_N)
            pick = tl.min(tl.where(todo & (keys == key), candidates, 2 * BLOCK_N), 0)
            # total is the least distance of leaving a row out, once there are surplus rows.
            if (pick >= BLOCK_N) & (pick < 2 * BLOCK_N) & ((i <= N) | (nearest < total)):
                reached = pick - BLOCK_N
                here = j == reached
                todo = todo & (j != reached)
                row = tl.sum(tl.where(here, row4col, 0), 0)
                u, delta = lane_of(u4col, here), nearest
                c = load_costs(cost + row % n * N + j, inside, dirty, low, high, ACC)
                if (i >= N) & (delta - u < total):
                    target, total = reached, delta - u
            else:
                searching = 0
                if pick < BLOCK_N:
                    target, total = pick, nearest
        flags = tl.where(searching > 0, flags | BOUND_REACHED, flags)

        if reached >= 0:
            change = tl.where(inside & (todo == 0), total - short, 0.0)
            u4col += change
            v -= change
        moves = 0
        while (target >= 0) & (moves <= N):
            moves += 1
            here = j == target
            target = tl.sum(tl.where(here, pred, 0), 0)
            row, u = i, total
            if target >= 0:
                there = j == target
                row, u = tl.sum(tl.where(there, row4col, 0), 0), lane_of(u4col, there)
            row4col, u4col = tl.where(here, row, row4col), tl.where(here, u, u4col)
        flags = tl.where(target >= 0, flags | BOUND_REACHED, flags)

    tl.debug_barrier()  # Other threads may have cleared what this one stores.
    matched = inside & (row4col >= 0)
    n = tl.maximum(n, 1)
    tl.store(assigned + row4col // n * M + row4col % n, j.to(tl.int64), mask=matched)
    tl.store(status + problem, flags)
