"""The kernels: one program an image, which walks its boxes by falling score, or picks them one by one."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_boxes(boxes, index, mask, ACC: tl.constexpr):
    """Corners of boxes (N, 4) at `index`; zeros, which overlap nothing, for those without a finite positive area."""
    x1 = tl.load(boxes + index * 4, mask=mask, other=0).to(ACC)
    y1 = tl.load(boxes + index * 4 + 1, mask=mask, other=0).to(ACC)
    x2 = tl.load(boxes + index * 4 + 2, mask=mask, other=0).to(ACC)
    y2 = tl.load(boxes + index * 4 + 3, mask=mask, other=0).to(ACC)
    width, height = x2 - x1, y2 - y1
    proper = (width > 0) & (height > 0) & (width * height < float("inf"))
    x1, y1 = tl.where(proper, x1, 0.0), tl.where(proper, y1, 0.0)
    return x1, y1, tl.where(proper, x2, 0.0), tl.where(proper, y2, 0.0)


@triton.jit
def overlap(x1, y1, x2, y2, other_x1, other_y1, other_x2, other_y2):
    """Area of the intersection and of the union of boxes and others."""
    width = tl.minimum(x2, other_x2) - tl.maximum(x1, other_x1)
    height = tl.minimum(y2, other_y2) - tl.maximum(y1, other_y1)
    inter = tl.maximum(width, 0) * tl.maximum(height, 0)
    return inter, (x2 - x1) * (y2 - y1) + (other_x2 - other_x1) * (other_y2 - other_y1) - inter


@triton.jit
def exceeds(inter, union, THRESHOLD: tl.constexpr, HALF_BIT: tl.constexpr):
    """Whether inter / union, rounded to nearest, is more than THRESHOLD, without a division.

    It is so if the quotient lies beyond the middle of THRESHOLD and the next number (no quotient is a middle):
    inter - THRESHOLD * union > HALF_BIT * union, HALF_BIT half the last bit of THRESHOLD. Near the decision the left
    side, as one fused operation, is exact, and the right side is, being a power of two times union.
    """
    threshold = tl.full((1, 1), THRESHOLD, inter.dtype)
    return tl.fma(union, -threshold, inter) > union * HALF_BIT


@triton.jit(do_not_specialize=["N", "D"])
def greedy_kernel(
    boxes,  # (B, N, 4)
    groups,  # (B, N) int64
    scores,  # (B, N) falling, -inf for what is not to be kept
    order,  # (B, N) int64, where the scores come from
    kept_boxes,  # (B, 4, D) of ACC, scratch
    kept_groups,  # (B, D) int32, scratch
    index,  # (B, D) int64
    kept,  # (B, D) uint8
    N,
    D,
    THRESHOLD: tl.constexpr,
    HALF_BIT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Greedy suppression. BLOCK candidates are held against all boxes kept before, then against each other."""
    image = tl.program_id(0).to(tl.int64)
    boxes += image * N * 4
    groups += image * N
    scores += image * N
    order += image * N
    kept_boxes += image * D * 4
    kept_groups += image * D
    index += image * D
    kept += image * D
    lane = tl.arange(0, BLOCK)
    earlier = lane[None, :] < lane[:, None]
    start = 0
    found = 0
    more = N > 0
    while more:
        rank = start + lane
        alive = tl.load(scores + rank, mask=rank < N, other=float("-inf")) > float("-inf")
        source = tl.load(order + rank, mask=alive, other=0)
        x1, y1, x2, y2 = load_boxes(boxes, source, alive, ACC)
        group = tl.load(groups + source, mask=alive, other=-1).to(tl.int32)
        hit = tl.zeros((BLOCK, BLOCK), tl.int1)
        for first in range(0, found, BLOCK):
            slot = first + lane
            there = slot < found
            inter, union = overlap(
                x1[:, None],
                y1[:, None],
                x2[:, None],
                y2[:, None],
                tl.load(kept_boxes + slot, mask=there, other=0)[None, :],
                tl.load(kept_boxes + D + slot, mask=there, other=0)[None, :],
                tl.load(kept_boxes + 2 * D + slot, mask=there, other=0)[None, :],
                tl.load(kept_boxes + 3 * D + slot, mask=there, other=0)[None, :],
            )
            same = group[:, None] == tl.load(kept_groups + slot, mask=there, other=-1)[None, :]
            hit = hit | (same & exceeds(inter, union, THRESHOLD, HALF_BIT))
        free = alive & (tl.max(hit.to(tl.int32), 1) == 0)
        inter, union = overlap(
            x1[:, None], y1[:, None], x2[:, None], y2[:, None], x1[None, :], y1[None, :], x2[None, :], y2[None, :]
        )
        same = group[:, None] == group[None, :]
        hit = earlier & same & exceeds(inter, union, THRESHOLD, HALF_BIT)
        keep = free
        turn = 0
        changed = True
        # A box is kept if no earlier kept one hits it. Turn t has the first t right, whatever hits what.
        while changed & (turn < BLOCK):
            again = free & (tl.max((hit & keep[None, :]).to(tl.int32), 1) == 0)
            changed = tl.max((again != keep).to(tl.int32), 0) > 0
            keep = again
            turn += 1
        one = keep.to(tl.int32)
        slot = found + tl.cumsum(one, 0) - 1
        room = keep & (slot < D)
        tl.store(kept_boxes + slot, x1, mask=room)
        tl.store(kept_boxes + D + slot, y1, mask=room)
        tl.store(kept_boxes + 2 * D + slot, x2, mask=room)
        tl.store(kept_boxes + 3 * D + slot, y2, mask=room)
        tl.store(kept_groups + slot, group, mask=room)
        tl.store(index + slot, source, mask=room)
        # The next turn's threads read what others have written.
        tl.debug_barrier()
        found = tl.minimum(found + tl.sum(one, 0), D)
        start += BLOCK
        more = (start < N) & (found < D) & (tl.sum(alive.to(tl.int32), 0) == BLOCK)
    for first in range(0, D, BLOCK):
        slot = first + lane
        tl.store(kept + slot, (slot < found).to(tl.uint8), mask=slot < D)
        tl.store(index + slot, tl.zeros((BLOCK,), tl.int64), mask=(slot >= found) & (slot < D))


@triton.jit(do_not_specialize=["N", "D"])
def soft_kernel(
    boxes,  # (B, N, 4)
    groups,  # (B, N) int64
    remaining,  # (B, N) of ACC: scores, -inf for what is out; written
    index,  # (B, D) int64
    found_scores,  # (B, D)
    kept,  # (B, D) uint8
    N,
    D,
    THRESHOLD: tl.constexpr,
    HALF_BIT: tl.constexpr,
    SIGMA: tl.constexpr,  # None: linear
    MIN_SCORE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Soft suppression. A turn decays the scores by the last pick and finds the best of them, BLOCK at a time."""
    image = tl.program_id(0).to(tl.int64)
    boxes += image * N * 4
    groups += image * N
    remaining += image * N
    index += image * D
    found_scores += image * D
    kept += image * D
    lane = tl.arange(0, BLOCK)
    turn = 0
    more = D > 0
    # The first turn has no pick: a box of no area, in no group.
    pick, pick_group = -1, -1
    pick_x1 = tl.zeros((1, 1), ACC)
    pick_y1, pick_x2, pick_y2 = pick_x1, pick_x1, pick_x1
    while more:
        best = tl.full((BLOCK,), float("-inf"), ACC)
        best_index = tl.zeros((BLOCK,), tl.int32)
        for first in range(0, N, BLOCK):
            place = first + lane
            score = tl.load(remaining + place, mask=place < N, other=float("-inf"))
            x1, y1, x2, y2 = load_boxes(boxes, place.to(tl.int64), place < N, ACC)
            group = tl.load(groups + place, mask=place < N, other=-1).to(tl.int32)
            inter, union = overlap(
                x1[None, :], y1[None, :], x2[None, :], y2[None, :], pick_x1, pick_y1, pick_x2, pick_y2
            )
            hits = (inter > 0) & (group == pick_group)[None, :]
            iou = tl.where(hits, inter / tl.where(hits, union, 1.0), 0.0)
            if SIGMA is None:
                weight = tl.where(hits & exceeds(inter, union, THRESHOLD, HALF_BIT), 1 - iou, 1.0)
            else:
                weight = tl.exp(-iou * iou / tl.full((1, 1), SIGMA, ACC))
            stays = (score >= tl.full((1,), MIN_SCORE, ACC)) & (place != pick)
            # Not -inf * 0: what is out stays out.
            score = tl.where(stays, score, 0.0) * tl.reshape(weight, (BLOCK,))
            score = tl.where(stays & (score >= tl.full((1,), MIN_SCORE, ACC)), score, float("-inf"))
            tl.store(remaining + place, score, mask=place < N)
            better = score > best
            best = tl.where(better, score, best)
            best_index = tl.where(better, place, best_index)
        # The next turn's threads read what others may have written.
        tl.debug_barrier()
        top = tl.max(best, 0)
        more = top > float("-inf")
        if more:
            pick = tl.min(tl.where(best == top, best_index, N), 0)
            tl.store(index + turn, pick.to(tl.int64))
            tl.store(found_scores + turn, top)
            pick_group = tl.load(groups + pick).to(tl.int32)
            at = tl.full((1, 1), 0, tl.int64) + pick
            pick_x1, pick_y1, pick_x2, pick_y2 = load_boxes(boxes, at, at >= 0, ACC)
            turn += 1
            more = turn < D
    for first in range(0, D, BLOCK):
        slot = first + lane
        tl.store(kept + slot, (slot < turn).to(tl.uint8), mask=slot < D)
        tl.store(index + slot, tl.zeros((BLOCK,), tl.int64), mask=(slot >= turn) & (slot < D))
        tl.store(found_scores + slot, tl.zeros((BLOCK,), ACC), mask=(slot >= turn) & (slot < D))
