"""The solver of `linear_assignment.triton.kernels` with the state of a column in memory, BLOCK_N columns at a time.

Lanes of different threads read what others wrote, so a barrier stands between every store and the next load of the
same buffer, and the other way round. stamp holds the last row whose tree had the column, so nothing is ever reset.
"""

from __future__ import annotations

import triton
import triton.language as tl

from codetr_kernels.linear_assignment.triton.kernels import (
    BOUND_REACHED,
    UNSPECIALIZED,
    clear,
    last_key,
    load_costs,
    ordered,
    survey,
    unordered,
)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def solve_in_memory(
    cost, num_objects, assigned, status, floats, integers, M, N, K,
    ACC: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """cost (P, M, N), num_objects (P,) -> assigned (P, K * M) int64, status (P,). floats: (P, 3, N) of type ACC;
    integers: (P, 3, N) int32; what they hold does not matter."""
    problem = tl.program_id(0).to(tl.int64)
    cost += problem * M * N
    assigned += problem * M * K
    v, row4col = floats + problem * 3 * N, integers + problem * 3 * N
    u4col, short = v + N, v + N + N
    pred, stamp = row4col + N, row4col + N + N
    n = tl.minimum(tl.maximum(tl.load(num_objects + problem), 0), M).to(tl.int32)
    rows = n * K
    clear(assigned, M * K, BLOCK)
    start_columns(v, u4col, row4col, stamp, N, ACC, BLOCK_N)
    dirty, flags, low, high = survey(cost, n * N, rows, ACC, BLOCK)
    tl.debug_barrier()

    zero = tl.full((), 0.0, ACC)
    for i in range(0, rows):
        row = i
        reached, target = -1, -1
        u, delta, total = zero, zero, zero
        searching, steps = 1, 0
        while (searching > 0) & (steps <= N):
            key, pick = relax(
                cost + row % n * N, v, u4col, short, row4col, pred, stamp,
                i, reached, delta - u, N, dirty, low, high, ACC, BLOCK_N,
            )  # fmt: skip
            tl.debug_barrier()
            steps += 1
            nearest = unordered(key)
            if (pick >= N) & (pick < 2 * N) & ((i <= N) | (nearest < total)):
                reached = pick - N
                row, u, delta = tl.load(row4col + reached), tl.load(u4col + reached), nearest
                tl.store(stamp + reached, i)
                tl.debug_barrier()
                if (i >= N) & (delta - u < total):
                    target, total = reached, delta - u
            else:
                searching = 0
                if pick < N:
                    target, total = pick, nearest
        flags = tl.where(searching > 0, flags | BOUND_REACHED, flags)

        if reached >= 0:
            update_duals(v, u4col, short, stamp, i, total, N, BLOCK_N)
            tl.debug_barrier()
        moves = 0
        while (target >= 0) & (moves <= N):
            moves += 1
            here = target
            target = tl.load(pred + here)
            row, u = i, total
            if target >= 0:
                row, u = tl.load(row4col + target), tl.load(u4col + target)
            tl.debug_barrier()
            tl.store(row4col + here, row)
            tl.store(u4col + here, u)
        flags = tl.where(target >= 0, flags | BOUND_REACHED, flags)
        tl.debug_barrier()

    lane = tl.arange(0, BLOCK_N)
    n = tl.maximum(n, 1)
    for start in range(0, N, BLOCK_N):
        j = start + lane
        row = tl.load(row4col + j, mask=j < N, other=-1)
        tl.store(assigned + row // n * M + row % n, j.to(tl.int64), mask=row >= 0)
    tl.store(status + problem, flags)


@triton.jit
def start_columns(v, u4col, row4col, stamp, N, ACC: tl.constexpr, BLOCK_N: tl.constexpr):
    """No column is matched, or in a tree."""
    lane = tl.arange(0, BLOCK_N)
    for start in range(0, N, BLOCK_N):
        j = start + lane
        tl.store(v + j, tl.zeros((BLOCK_N,), ACC), mask=j < N)
        tl.store(u4col + j, tl.zeros((BLOCK_N,), ACC), mask=j < N)
        tl.store(row4col + j, tl.full((BLOCK_N,), -1, tl.int32), mask=j < N)
        tl.store(stamp + j, tl.full((BLOCK_N,), -1, tl.int32), mask=j < N)


@triton.jit
def relax(
    costs, v, u4col, short, row4col, pred, stamp,
    i, reached, offset, N, dirty, low, high, ACC: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Distances by way of a row to the columns outside the tree of row i; key of the least, and which column has it:
    beyond N, taken ones after free ones; 2 * N if none is left."""
    lane = tl.arange(0, BLOCK_N)
    keys = tl.zeros((BLOCK_N,), last_key(ACC).dtype) + last_key(ACC)
    picks = tl.zeros((BLOCK_N,), tl.int32) + 2 * N
    for start in range(0, N, BLOCK_N):
        j = start + lane
        inside = j < N
        todo = inside & (tl.load(stamp + j, mask=inside, other=i) != i)
        c = load_costs(costs + j, inside, dirty, low, high, ACC)
        distance = (c - tl.load(v + j, mask=inside, other=0.0)) + offset
        # Distances of the row before are still there when the first ones of this row are found.
        before = tl.load(short + j, mask=inside & (reached >= 0), other=float("inf"))
        closer = todo & (distance < before)
        tl.store(short + j, distance, mask=closer)
        tl.store(pred + j, tl.zeros((BLOCK_N,), tl.int32) + reached, mask=closer)
        key = tl.where(todo, ordered(tl.where(closer, distance, before)), last_key(ACC))
        pick = j + tl.where(tl.load(row4col + j, mask=inside, other=-1) < 0, 0, N)
        better = todo & ((key < keys) | ((key == keys) & (pick < picks)))
        keys, picks = tl.where(better, key, keys), tl.where(better, pick, picks)
    nearest = tl.min(keys, 0)
    return nearest, tl.min(tl.where(keys == nearest, picks, 2 * N), 0)


@triton.jit
def update_duals(v, u4col, short, stamp, i, total, N, BLOCK_N: tl.constexpr):
    """Of the columns in the tree of row i, and of their rows."""
    lane = tl.arange(0, BLOCK_N)
    for start in range(0, N, BLOCK_N):
        j = start + lane
        scanned = tl.load(stamp + j, mask=j < N, other=-1) == i
        change = total - tl.load(short + j, mask=scanned, other=0.0)
        tl.store(u4col + j, tl.load(u4col + j, mask=scanned, other=0.0) + change, mask=scanned)
        tl.store(v + j, tl.load(v + j, mask=scanned, other=0.0) - change, mask=scanned)
