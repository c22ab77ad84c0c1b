"""The kernels. Compiled without contracted multiply-adds, every rounding is that of PyTorch's operations.

P priors and G objects of an image change from step to step: specialised on their values, each would be compiled anew.
"""

import triton
import triton.language as tl

SIZES = ("P", "G")
LEVELS = ("size0", "size1", "size2", "size3", "size4", "size5", "size6", "size7")


@triton.jit
def box_iou(ax0, ay0, ax1, ay1, bx0, by0, bx1, by1):
    """IoU of broadcast boxes, one by one."""
    width = tl.maximum(tl.minimum(ax1, bx1) - tl.maximum(ax0, bx0), 0.0)
    height = tl.maximum(tl.minimum(ay1, by1) - tl.maximum(ay0, by0), 0.0)
    intersection = width * height
    area_a = tl.maximum(ax1 - ax0, 0.0) * tl.maximum(ay1 - ay0, 0.0)
    area_b = tl.maximum(bx1 - bx0, 0.0) * tl.maximum(by1 - by0, 0.0)
    return tl.div_rn(intersection, tl.maximum(area_a + area_b - intersection, 1e-7))


@triton.jit
def load_boxes(boxes, index, mask):
    """Corners of a block of boxes, 0 where masked."""
    row = boxes + index * 4
    x0 = tl.load(row, mask=mask, other=0.0)
    y0 = tl.load(row + 1, mask=mask, other=0.0)
    x1 = tl.load(row + 2, mask=mask, other=0.0)
    y1 = tl.load(row + 3, mask=mask, other=0.0)
    return x0, y0, x1, y1


@triton.jit
def load_box(boxes, index):
    """Corners of one box."""
    row = boxes + index * 4
    return tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3)


@triton.jit
def image_rows(priors, prior_valid, gt_boxes, gt_valid, image, P, G, WIDTH: tl.constexpr, SHARED: tl.constexpr):
    """Pointers to what belongs to an image."""
    if not SHARED:
        priors += image * P * WIDTH
    return priors, prior_valid + image * P, gt_boxes + image * G * 4, gt_valid + image * G


@triton.jit(do_not_specialize=SIZES)
def best_overlap_kernel(
    priors, prior_valid, gt_boxes, gt_valid, tops, P, G, SHARED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """tops (B, G), 0 before: the bits of the highest IoU of each object; of a float >= 0 they order like the float.

    Grid (blocks of priors, B).
    """
    image = tl.program_id(1).to(tl.int64)
    priors, prior_valid, gt_boxes, gt_valid = image_rows(
        priors, prior_valid, gt_boxes, gt_valid, image, P, G, 4, SHARED
    )
    prior = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = tl.load(prior_valid + prior, mask=prior < P, other=0) != 0
    x0, y0, x1, y1 = load_boxes(priors, prior, prior < P)
    for gt in range(G):
        if tl.load(gt_valid + gt) != 0:
            gx0, gy0, gx1, gy1 = load_box(gt_boxes, gt)
            iou = box_iou(x0, y0, x1, y1, gx0, gy0, gx1, gy1)
            top = tl.max(tl.where(valid, iou, 0.0), 0)
            if top > 0:
                tl.atomic_max(tops + image * G + gt, top.to(tl.int32, bitcast=True), sem="relaxed")


@triton.jit(do_not_specialize=SIZES)
def max_iou_kernel(
    priors, prior_valid, gt_boxes, gt_valid, tops, gt_index, P, G, positive, negative, low_quality,
    RESCUE: tl.constexpr, SHARED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """gt_index (B, P) from tops, as `best_overlap_kernel` leaves them, if objects RESCUE their best priors.

    low_quality: more than 0. The IoUs are the bits that the other kernel found: the same code and no contraction.
    Grid (blocks of priors, B).
    """
    image = tl.program_id(1).to(tl.int64)
    priors, prior_valid, gt_boxes, gt_valid = image_rows(
        priors, prior_valid, gt_boxes, gt_valid, image, P, G, 4, SHARED
    )
    prior = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = tl.load(prior_valid + prior, mask=prior < P, other=0) != 0
    x0, y0, x1, y1 = load_boxes(priors, prior, prior < P)
    best = tl.full((BLOCK,), -1.0, tl.float32)
    index = tl.zeros((BLOCK,), tl.int32)
    rescued = tl.full((BLOCK,), -1, tl.int32)
    for gt in range(G):
        if tl.load(gt_valid + gt) != 0:
            gx0, gy0, gx1, gy1 = load_box(gt_boxes, gt)
            iou = box_iou(x0, y0, x1, y1, gx0, gy0, gx1, gy1)
            index = tl.where(iou > best, gt, index)
            best = tl.maximum(best, iou)
            if RESCUE:
                top = tl.load(tops + image * G + gt).to(tl.float32, bitcast=True)
                rescued = tl.where(iou == tl.where(top >= low_quality, top, 2.0), gt, rescued)
    found = tl.where(best >= positive, index, tl.where(best < negative, -1, -2))
    if RESCUE:
        found = tl.where(rescued >= 0, rescued, found)
    found = tl.where(valid, found, -2)
    tl.store(gt_index + image * P + prior, found.to(tl.int64), mask=prior < P)


@triton.jit
def of_level(level, size0, size1, size2, size3, size4, size5, size6, size7):
    """One of eight scalars, by a block of indices."""
    low = tl.where(level == 0, size0, tl.where(level == 1, size1, tl.where(level == 2, size2, size3)))
    high = tl.where(level == 4, size4, tl.where(level == 5, size5, tl.where(level == 6, size6, size7)))
    return tl.where(level < 4, low, high)


@triton.jit(do_not_specialize=(*SIZES, *LEVELS))
def fcos_kernel(
    points, point_valid, gt_boxes, gt_valid, gt_index,
    size0, size1, size2, size3, size4, size5, size6, size7, P, G, radius,
    STRIDES: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, CENTRE: tl.constexpr,
    SHARED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """gt_index (B, P). size0 to size7: points of each level, 0 beyond the last. Grid (blocks of points, B)."""
    image = tl.program_id(1).to(tl.int64)
    points, point_valid, gt_boxes, gt_valid = image_rows(
        points, point_valid, gt_boxes, gt_valid, image, P, G, 2, SHARED
    )
    point = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = tl.load(point_valid + point, mask=point < P, other=0) != 0
    x = tl.load(points + 2 * point, mask=point < P, other=0.0)
    y = tl.load(points + 2 * point + 1, mask=point < P, other=0.0)
    shift = tl.zeros((BLOCK,), tl.float32)
    low = tl.zeros((BLOCK,), tl.float32)
    high = tl.zeros((BLOCK,), tl.float32)
    start = tl.zeros((), tl.int32)
    for level in tl.static_range(len(STRIDES)):
        here = point >= start
        shift = tl.where(here, STRIDES[level] * radius, shift)
        low = tl.where(here, LOW[level], low)
        high = tl.where(here, HIGH[level], high)
        start += of_level(level, size0, size1, size2, size3, size4, size5, size6, size7)
    smallest = tl.full((BLOCK,), float("inf"), tl.float32)
    found = tl.full((BLOCK,), -1, tl.int32)
    for gt in range(G):
        if tl.load(gt_valid + gt) != 0:
            gx0, gy0, gx1, gy1 = load_box(gt_boxes, gt)
            left, top, right, bottom = x - gx0, y - gy0, gx1 - x, gy1 - y
            farthest = tl.maximum(tl.maximum(left, top), tl.maximum(right, bottom))
            if CENTRE:
                middle_x, middle_y = (gx0 + gx1) * 0.5, (gy0 + gy1) * 0.5
                left, top = x - tl.maximum(middle_x - shift, gx0), y - tl.maximum(middle_y - shift, gy0)
                right, bottom = tl.minimum(middle_x + shift, gx1) - x, tl.minimum(middle_y + shift, gy1) - y
            inside = tl.minimum(tl.minimum(left, top), tl.minimum(right, bottom)) > 0
            area = (gx1 - gx0) * (gy1 - gy0)
            taken = inside & (farthest >= low) & (farthest <= high) & (area < smallest)
            found = tl.where(taken, gt, found)
            smallest = tl.where(taken, area, smallest)
    found = tl.where(valid, found, -2)
    tl.store(gt_index + image * P + point, found.to(tl.int64), mask=point < P)


@triton.jit
def cells_inside(count, stride, size):
    """How many of `count` rows or columns begin before `size`.

    Rounded to nearest, a quotient is a whole number only if it is one: the neighbours of a product n * stride are
    farther from it, for their size, than half the distance of n to its own neighbours.
    """
    inside = tl.ceil(tl.div_rn(tl.minimum(size, count * stride), stride)).to(tl.int32)
    return tl.minimum(tl.maximum(inside, 0), count)


@triton.jit
def ranked_cells(point, count, rank, stride, offset):
    """Index of the row or column that is the rank-th nearest to a coordinate; inside the count for any number."""
    last = tl.maximum(count - 1, 0)
    nearest = tl.minimum(tl.maximum(tl.floor(point / stride - offset), 0.0), last.to(tl.float32)).to(tl.int32)
    nearest = tl.minimum(tl.maximum(nearest, 0), last)
    here = tl.abs(point - (nearest.to(tl.float32) + offset) * stride)
    beyond = tl.abs(point - ((nearest + 1).to(tl.float32) + offset) * stride)
    nearest = tl.minimum(tl.where(beyond < here, nearest + 1, nearest), last)
    upward = point > (nearest.to(tl.float32) + offset) * stride
    both = tl.minimum(nearest, last - nearest)
    step = (rank + 1) // 2
    alternating = tl.where((rank % 2 == 1) == upward, step, -step)
    one_sided = tl.where(last - nearest > nearest, rank - both, both - rank)
    cell = nearest + tl.where(rank <= 2 * both, alternating, one_sided)
    return tl.minimum(tl.maximum(cell, 0), last)


@triton.jit(do_not_specialize=(*SIZES, *LEVELS))
def atss_kernel(
    priors, gt_boxes, gt_valid, sizes, keys,
    size0, size1, size2, size3, size4, size5, size6, size7, P, G, offset, margin,
    STRIDES: tl.constexpr, TOPK: tl.constexpr, CROPPED: tl.constexpr, SHARED: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """keys (B, P), -1 before: highest (IoU, -object) of the objects that claim each prior. Grid (G, B).

    size0 to size7: height << 32 | width of each level, no cell beyond the last. One row of BLOCK_C lanes a level, one
    lane a candidate: `nearest_ranks` says why these are enough.
    """
    gt = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    if tl.load(gt_valid + image * G + gt) == 0:
        return
    gx0, gy0, gx1, gy1 = load_box(gt_boxes + image * G * 4, gt)
    if not SHARED:
        priors += image * P * 4
    level = tl.arange(0, BLOCK_L)
    packed = of_level(level, size0, size1, size2, size3, size4, size5, size6, size7)
    height, width = (packed >> 32).to(tl.int32), (packed & 0xFFFFFFFF).to(tl.int32)
    start = tl.cumsum(height * width, 0) - height * width
    stride = tl.full((BLOCK_L,), 1.0, tl.float32)
    for number in tl.static_range(len(STRIDES)):
        stride = tl.where(level == number, STRIDES[number] * 1.0, stride)
    rows, columns = height, width
    if CROPPED:
        rows = cells_inside(height, stride, tl.load(sizes + 2 * image))
        columns = cells_inside(width, stride, tl.load(sizes + 2 * image + 1))
    rows, columns, stride = rows[:, None], columns[:, None], stride[:, None]
    # The lanes' ranks: row i has TOPK // (i + 1) of them.
    lane = tl.arange(0, BLOCK_C)
    row_rank = tl.zeros((BLOCK_C,), tl.int32)
    column_rank = lane
    begin = 0
    for number in tl.static_range(1, TOPK):
        begin += TOPK // number
        row_rank = tl.where(lane >= begin, number, row_rank)
        column_rank = tl.where(lane >= begin, lane - begin, column_rank)
    row_rank, column_rank = row_rank[None, :], column_rank[None, :]
    exists = ((row_rank + 1) * (column_rank + 1) <= TOPK) & (row_rank < rows) & (column_rank < columns)
    row = ranked_cells((gy0 + gy1) * 0.5, rows, row_rank, stride, offset)
    column = ranked_cells((gx0 + gx1) * 0.5, columns, column_rank, stride, offset)
    cell = start[:, None] + row * width[:, None] + column
    x0, y0, x1, y1 = load_boxes(priors, cell, exists)
    centre_x, centre_y = (x0 + x1) * 0.5, (y0 + y1) * 0.5
    dx, dy = (gx0 + gx1) * 0.5 - centre_x, (gy0 + gy1) * 0.5 - centre_y
    squared = dx * dx + dy * dy
    most = 0x7FFFFFFFFFFFFFFF
    nearness = (squared.to(tl.int32, bitcast=True).to(tl.int64) << 32) | cell
    nearness = tl.where(exists, nearness, most)
    bound = tl.full((BLOCK_L,), -1, tl.int64)
    for _ in range(TOPK):
        bound = tl.min(tl.where(nearness > bound[:, None], nearness, most), 1)
    chosen = exists & (nearness <= bound[:, None])
    iou = box_iou(x0, y0, x1, y1, gx0, gy0, gx1, gy1)
    # Sums of 64 bits: equal IoUs reach their mean exactly, and the order of adding does not show.
    precise = iou.to(tl.float64)
    count = tl.sum(tl.sum(chosen.to(tl.int32), 1), 0)
    mean = tl.sum(tl.sum(tl.where(chosen, precise, 0.0), 1), 0) / tl.maximum(count, 1).to(tl.float64)
    squares = tl.where(chosen, (precise - mean) * (precise - mean), 0.0)
    variance = tl.sum(tl.sum(squares, 1), 0) / tl.maximum(count - 1, 1).to(tl.float64)
    depth = tl.minimum(tl.minimum(centre_x - gx0, centre_y - gy0), tl.minimum(gx1 - centre_x, gy1 - centre_y))
    positive = chosen & (precise >= mean + tl.sqrt(variance)) & (depth > margin)
    key = (iou.to(tl.int32, bitcast=True).to(tl.int64) << 32) | (0x7FFFFFFF - gt)
    tl.atomic_max(keys + image * P + cell, key, mask=positive, sem="relaxed")


@triton.jit(do_not_specialize=("total",))
def decode_kernel(keys, prior_valid, total, BLOCK: tl.constexpr):
    """keys (B * P), as `atss_kernel` leaves them, become gt_index in place. Grid (blocks of priors)."""
    prior = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    key = tl.load(keys + prior, mask=prior < total, other=0)
    valid = tl.load(prior_valid + prior, mask=prior < total, other=0) != 0
    found = tl.where(key >= 0, 0x7FFFFFFF - (key & 0xFFFFFFFF), -1)
    tl.store(keys + prior, tl.where(valid, found, -2), mask=prior < total)


@triton.jit
def log_densities(x, weight0, mean0, variance0, weight1, mean1, variance1):
    """Of the two components times their weights, and of the mixture."""
    joint0 = -0.5 * (1.8378770664093453 + (x - mean0) * (x - mean0) / variance0 + tl.log(variance0)) + tl.log(weight0)
    joint1 = -0.5 * (1.8378770664093453 + (x - mean1) * (x - mean1) / variance1 + tl.log(variance1)) + tl.log(weight1)
    peak = tl.maximum(joint0, joint1)
    return joint0, joint1, peak + tl.log(tl.exp(joint0 - peak) + tl.exp(joint1 - peak))


@triton.jit
def updated(x, share, number):
    """Weight, mean and variance of a component from its shares of the candidates."""
    total = tl.sum(share, 0) + 10 * 2.220446049250313e-16
    mean = tl.sum(share * x, 0) / total
    variance = tl.sum(share * (x - mean) * (x - mean), 0) / total
    return total / number, mean, variance


@triton.jit(do_not_specialize=("T",))
def separate_kernel(
    losses, counted, positive, T, MOST_STEPS: tl.constexpr, TOLERANCE: tl.constexpr, LEAST_VARIANCE: tl.constexpr,
    BLOCK_T: tl.constexpr,
):  # fmt: skip
    """positive (B * G, T) from losses and counted (B * G, T); see `separate_reference`. Grid (B * G)."""
    row = tl.program_id(0).to(tl.int64) * T
    lane = tl.arange(0, BLOCK_T)
    real = tl.load(counted + row + lane, mask=lane < T, other=0) != 0
    x = tl.load(losses + row + lane, mask=real, other=0.0).to(tl.float64)
    count = tl.sum(real.to(tl.int32), 0)
    number = tl.maximum(count, 1).to(tl.float64)
    mean0 = tl.min(tl.where(real, x, float("inf")), 0)
    mean1 = tl.max(tl.where(real, x, float("-inf")), 0)
    mean0, mean1 = tl.where(count > 0, mean0, 0.0), tl.where(count > 0, mean1, 0.0)
    weight0 = tl.full((), 0.5, tl.float64)
    weight1 = tl.full((), 0.5, tl.float64)
    variance0 = tl.full((), 1.0, tl.float64)
    variance1 = tl.full((), 1.0, tl.float64)
    likelihood = tl.full((), float("-inf"), tl.float64)
    step = 0
    active = count >= 2
    while active & (step < MOST_STEPS):
        joint0, joint1, score = log_densities(x, weight0, mean0, variance0, weight1, mean1, variance1)
        weight0, mean0, variance0 = updated(x, tl.where(real, tl.exp(joint0 - score), 0.0), number)
        weight1, mean1, variance1 = updated(x, tl.where(real, tl.exp(joint1 - score), 0.0), number)
        variance0 += LEAST_VARIANCE
        variance1 += LEAST_VARIANCE
        now = tl.sum(tl.where(real, score, 0.0), 0) / number
        active = (tl.abs(now - likelihood) < TOLERANCE) == 0
        likelihood = now
        step += 1
    joint0, joint1, score = log_densities(x, weight0, mean0, variance0, weight1, mean1, variance1)
    foreground = real & (joint0 >= joint1) & (count >= 2)
    peak = tl.max(tl.where(foreground, score, float("-inf")), 0)
    limit = tl.min(tl.where(foreground & (score == peak), x, float("inf")), 0)
    tl.store(positive + row + lane, (foreground & (x <= limit)).to(tl.uint8), mask=lane < T)
