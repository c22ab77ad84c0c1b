"""The kernels: a tile of objects by queries a program, queries contiguous."""

import triton
import triton.language as tl

SIZES = ("logits_stride", "boxes_stride", "B", "M", "N")
"""They change from batch to batch: specialised on their values, each would be compiled anew."""


@triton.jit(do_not_specialize=SIZES)
def matching_cost_kernel(
    logits, log_totals, boxes, labels, target_boxes, num_objects, valid, cost,
    logits_stride, boxes_stride, B, M, N,
    K: tl.constexpr, SOFTMAX: tl.constexpr, COUNTED: tl.constexpr, MASKED: tl.constexpr,
    CLASS_WEIGHT: tl.constexpr, L1_WEIGHT: tl.constexpr, GIOU_WEIGHT: tl.constexpr,
    ALPHA: tl.constexpr, GAMMA: tl.constexpr, EPS: tl.constexpr, INVALID_COST: tl.constexpr, ACC: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """cost (P, M, N) of logits (P, N, K) and boxes (P, N, 4), P = L * B problems `logits_stride`, `boxes_stride` apart.

    Grid (P, blocks of objects, blocks of queries). log_totals (P, N): see `log_total_kernel`, read with SOFTMAX.
    """
    problem = tl.program_id(0).to(tl.int64)
    image = problem % B
    count = M
    if COUNTED:
        count = tl.minimum(tl.load(num_objects + image), M).to(tl.int32)
    if tl.program_id(1) * BLOCK_M >= count:
        return
    item = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    query = tl.program_id(2).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_item = item < count
    is_query = query < N
    row = image * M + item
    label = tl.load(labels + row, mask=is_item, other=0)
    label = tl.minimum(tl.maximum(label, 0), K - 1)
    exists = is_item[:, None] & is_query[None, :]
    chosen = logits + problem * logits_stride + (query * K)[None, :] + label[:, None]
    logit = tl.load(chosen, mask=exists, other=0.0).to(ACC)
    if SOFTMAX:
        log_total = tl.load(log_totals + problem * N + query, mask=is_query, other=0.0)
        by_class = -tl.exp(logit - log_total[None, :])
    else:
        by_class = _focal(logit, ALPHA, GAMMA)
    qx, qy, qw, qh = _box(boxes + problem * boxes_stride, query, is_query, ACC)
    tx, ty, tw, th = _box(target_boxes, row, is_item, ACC)
    distance = tl.abs(tx[:, None] - qx[None, :]) + tl.abs(ty[:, None] - qy[None, :])
    distance += tl.abs(tw[:, None] - qw[None, :]) + tl.abs(th[:, None] - qh[None, :])
    overlap_x, hull_x = _axis(tx, tw, qx, qw)
    overlap_y, hull_y = _axis(ty, th, qy, qh)
    overlap = overlap_x * overlap_y
    hull = tl.maximum(hull_x * hull_y, EPS)
    areas = _area(tx, ty, tw, th)[:, None] + _area(qx, qy, qw, qh)[None, :]
    union = tl.maximum(areas - overlap, EPS)
    giou = overlap / union - (hull - union) / hull
    total = CLASS_WEIGHT * by_class + L1_WEIGHT * distance - GIOU_WEIGHT * giou
    if MASKED:
        may_match = tl.load(valid + image * N + query, mask=is_query, other=0) != 0
        total = tl.where(may_match[None, :], total, INVALID_COST)
    target = cost + problem * M * N + (item.to(tl.int64) * N)[:, None] + query[None, :]
    tl.store(target, total, mask=exists)


@triton.jit(do_not_specialize=("logits_stride", "N"))
def log_total_kernel(
    logits, log_totals, logits_stride, N,
    K: tl.constexpr, ACC: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """log_totals (P, N): logarithm of the sum of the exponentials of each row of logits (P, N, K).

    Grid (P, blocks of queries). A pass over K in blocks, with a running peak, so that nothing overflows.
    """
    problem = tl.program_id(0).to(tl.int64)
    query = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = logits + problem * logits_stride + (tl.minimum(query, N - 1) * K)[:, None]
    peak = tl.full((BLOCK_N,), float("-inf"), ACC)
    total = tl.zeros((BLOCK_N,), ACC)
    for start in range(0, K, BLOCK_K):
        channel = start + tl.arange(0, BLOCK_K)
        logit = tl.load(row + channel[None, :], mask=channel[None, :] < K, other=float("-inf")).to(ACC)
        higher = tl.maximum(peak, tl.max(logit, 1))
        # A class may be shut out by -inf: minus infinity less minus infinity is no number.
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(peak - shift) + tl.sum(tl.exp(logit - shift[:, None]), 1)
        peak = higher
    tl.store(log_totals + problem * N + query, peak + tl.log(total), mask=query < N)


@triton.jit
def _focal(logit, ALPHA: tl.constexpr, GAMMA: tl.constexpr):
    """Focal loss of a yes less that of a no, where -log p and -log(1 - p) are `no` and `yes`: a power is a product."""
    rest = tl.log(1.0 + tl.exp(-tl.abs(logit)))
    yes = tl.maximum(logit, 0.0) + rest
    no = tl.maximum(-logit, 0.0) + rest
    return ALPHA * tl.exp(-GAMMA * yes) * no - (1.0 - ALPHA) * tl.exp(-GAMMA * no) * yes


@triton.jit
def _box(boxes, index, exists, ACC: tl.constexpr):
    """Four blocks of coordinates cxcywh; zeros where there is no box."""
    x = tl.load(boxes + index * 4, mask=exists, other=0.0).to(ACC)
    y = tl.load(boxes + index * 4 + 1, mask=exists, other=0.0).to(ACC)
    w = tl.load(boxes + index * 4 + 2, mask=exists, other=0.0).to(ACC)
    h = tl.load(boxes + index * 4 + 3, mask=exists, other=0.0).to(ACC)
    return x, y, w, h


@triton.jit
def _axis(a, size_a, b, size_b):
    """(A, B) lengths along one axis of the overlaps and the hulls of intervals given by centre and size."""
    low_a = (a - 0.5 * size_a)[:, None]
    high_a = (a + 0.5 * size_a)[:, None]
    low_b = (b - 0.5 * size_b)[None, :]
    high_b = (b + 0.5 * size_b)[None, :]
    overlap = tl.minimum(high_a, high_b) - tl.maximum(low_a, low_b)
    hull = tl.maximum(high_a, high_b) - tl.minimum(low_a, low_b)
    return tl.maximum(overlap, 0.0), tl.maximum(hull, 0.0)


@triton.jit
def _area(x, y, w, h):
    """Area of boxes cxcywh by their corners, as the overlap is: a box overlaps itself by its area exactly."""
    width = (x + 0.5 * w) - (x - 0.5 * w)
    height = (y + 0.5 * h) - (y - 0.5 * h)
    return tl.maximum(width, 0.0) * tl.maximum(height, 0.0)
