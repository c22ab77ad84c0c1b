"""Overlaps of pairs, and losses of aligned boxes with their gradients. One formula a function, as in the reference.

Nothing is contracted to fused multiply-adds and division is rounded correctly (see `launch`): results are the
reference's to the last bit, and equal boxes overlap by exactly 1.
"""

import triton
import triton.language as tl

EPS = tl.constexpr(1e-7)
SMALLEST = tl.constexpr(1e-14)
PI = tl.constexpr(3.141592653589793)


@triton.jit
def least(a, b):
    """The minimum; NaN where either is, as in PyTorch."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def most(a, b):
    """The maximum; NaN where either is, as in PyTorch."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def bounded(x):
    """At least EPS, in the type of x."""
    return most(x, tl.zeros_like(x) + EPS)


@triton.jit
def divided(a, b):
    """a / b, correctly rounded."""
    if b.dtype == tl.float32:
        return tl.div_rn(a, b)
    else:
        return a / b


@triton.jit
def load_boxes(boxes, first, count, BLOCK: tl.constexpr, CXCYWH: tl.constexpr, ACC: tl.constexpr):
    """Corners of BLOCK boxes from the one at `first`, read as whole rows; zeros beyond `count`."""
    place = tl.arange(0, 4 * BLOCK)
    flat = tl.load(boxes + first * 4 + place, mask=place < (count - first) * 4, other=0.0).to(ACC)
    even, odd = tl.split(tl.reshape(flat, (BLOCK, 2, 2)))
    x0, x1 = tl.split(even)
    y0, y1 = tl.split(odd)
    if CXCYWH:
        half_x = x1 * 0.5
        half_y = y1 * 0.5
        return x0 - half_x, y0 - half_y, x0 + half_x, y0 + half_y
    else:
        return x0, y0, x1, y1


@triton.jit
def store_gradients(target, first, count, x0, y0, x1, y1, BLOCK: tl.constexpr, CXCYWH: tl.constexpr):
    """Gradients of the corners as gradients of the boxes, in whole rows."""
    place = tl.arange(0, 4 * BLOCK)
    if CXCYWH:
        even = tl.join(x0 + x1, (x1 - x0) * 0.5)
        odd = tl.join(y0 + y1, (y1 - y0) * 0.5)
    else:
        even = tl.join(x0, x1)
        odd = tl.join(y0, y1)
    flat = tl.reshape(tl.join(even, odd), (4 * BLOCK,))
    tl.store(target + first * 4 + place, flat.to(target.dtype.element_ty), mask=place < (count - first) * 4)


@triton.jit
def overlap(ax0, ay0, ax1, ay1, bx0, by0, bx1, by1):
    """Width and height of the intersection, negative for boxes apart; its area; the union, not yet bounded."""
    width = least(ax1, bx1) - most(ax0, bx0)
    height = least(ay1, by1) - most(ay0, by0)
    intersection = most(width, 0.0) * most(height, 0.0)
    area_a = most(ax1 - ax0, 0.0) * most(ay1 - ay0, 0.0)
    area_b = most(bx1 - bx0, 0.0) * most(by1 - by0, 0.0)
    return width, height, intersection, area_a + area_b - intersection


@triton.jit
def hull_sides(ax0, ay0, ax1, ay1, bx0, by0, bx1, by1):
    """Width and height of the smallest box around both."""
    return most(ax1, bx1) - least(ax0, bx0), most(ay1, by1) - least(ay0, by0)


@triton.jit
def arctan(x):
    """Angle in (0, pi / 2) of a positive slope. Triton's language has none that runs in its interpreter.

    Source: Moshier, Cephes Mathematical Library, atan.c: a rational function after reduction to [-0.42, 0.67].
    """
    steep = x > 2.414213562373095
    middle = (x > 0.66) & (x <= 2.414213562373095)
    top = tl.where(steep, -1.0, tl.where(middle, x - 1.0, x))
    bottom = tl.where(steep, x, tl.where(middle, x + 1.0, 1.0))
    zero = tl.zeros_like(x)
    start = tl.where(steep, zero + PI / 2, tl.where(middle, zero + PI / 4, zero))
    slope = divided(top, bottom)
    z = slope * slope
    p = -8.750608600031904e-1 * z - 1.615753718733365e1
    p = (p * z - 7.500855792314705e1) * z - 1.2288666844901361e2
    p = p * z - 6.485021904942025e1
    q = (z + 2.485846490142306e1) * z + 1.650270098316988e2
    q = (q * z + 4.328810604912903e2) * z + 4.853903996359137e2
    q = q * z + 1.945506571482614e2
    return start + (slope * (z * divided(p, q)) + slope)


@triton.jit
def aspect(aw, ah, bw, bh, iou):
    """Difference of the angles, and the weight of the term: 0 where a box has no aspect ratio."""
    proper = least(least(aw, ah), least(bw, bh)) > EPS
    angle_a = arctan(divided(tl.where(proper, aw, 1.0), tl.where(proper, ah, 1.0)))
    angle_b = arctan(divided(tl.where(proper, bw, 1.0), tl.where(proper, bh, 1.0)))
    difference = angle_b - angle_a
    v = (4 / (PI * PI)) * (difference * difference)
    return difference, v, divided(v, bounded(1.0 - iou + v))


@triton.jit(do_not_specialize=("N", "M", "step_a", "step_b"))
def pairwise_kernel(
    a, b, output, N, M, step_a, step_b,
    GENERAL: tl.constexpr, CXCYWH: tl.constexpr, ACC: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """output (B, N, M) from a (B, N, 4) and b (B, M, 4). step_a, step_b: boxes from an image's first to the next
    one's, 0 if all share them. Grid: tiles of an image, M fastest, times B."""
    tiles_n = tl.cdiv(N, BLOCK_N)
    tiles_m = tl.cdiv(M, BLOCK_M)
    tile = tl.program_id(0) % (tiles_n * tiles_m)
    image = (tl.program_id(0) // (tiles_n * tiles_m)).to(tl.int64)
    first_n = (tile // tiles_m) * BLOCK_N
    first_m = (tile % tiles_m) * BLOCK_M
    ax0, ay0, ax1, ay1 = load_boxes(a + image * step_a * 4, first_n, N, BLOCK_N, CXCYWH, ACC)
    bx0, by0, bx1, by1 = load_boxes(b + image * step_b * 4, first_m, M, BLOCK_M, CXCYWH, ACC)
    ax0, ay0, ax1, ay1 = ax0[:, None], ay0[:, None], ax1[:, None], ay1[:, None]
    bx0, by0, bx1, by1 = bx0[None, :], by0[None, :], bx1[None, :], by1[None, :]
    _, _, intersection, union = overlap(ax0, ay0, ax1, ay1, bx0, by0, bx1, by1)
    union = bounded(union)
    result = divided(intersection, union)
    if GENERAL:
        width, height = hull_sides(ax0, ay0, ax1, ay1, bx0, by0, bx1, by1)
        hull = bounded(most(width, 0.0) * most(height, 0.0))
        result -= divided(hull - union, hull)
    row = first_n + tl.arange(0, BLOCK_N)
    column = first_m + tl.arange(0, BLOCK_M)
    place = (image * N + row.to(tl.int64)[:, None]) * M + column[None, :]
    tl.store(output + place, result, mask=(row < N)[:, None] & (column < M)[None, :])


@triton.jit(do_not_specialize=("count",))
def box_loss_kernel(
    prediction, target, output, count,
    KIND: tl.constexpr, CXCYWH: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """output (count,) of prediction and target (count, 4). Grid: blocks of boxes."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    px0, py0, px1, py1 = load_boxes(prediction, first, count, BLOCK, CXCYWH, ACC)
    tx0, ty0, tx1, ty1 = load_boxes(target, first, count, BLOCK, CXCYWH, ACC)
    _, _, intersection, union = overlap(px0, py0, px1, py1, tx0, ty0, tx1, ty1)
    union = bounded(union)
    iou = divided(intersection, union)
    loss = 1.0 - iou
    width, height = hull_sides(px0, py0, px1, py1, tx0, ty0, tx1, ty1)
    if KIND == "giou":
        hull = bounded(most(width, 0.0) * most(height, 0.0))
        loss = 1.0 - (iou - divided(hull - union, hull))
    if KIND == "diou" or KIND == "ciou":
        diagonal = bounded(width * width + height * height)
        offset_x = ((px0 + px1) - (tx0 + tx1)) * 0.5
        offset_y = ((py0 + py1) - (ty0 + ty1)) * 0.5
        loss += divided(offset_x * offset_x + offset_y * offset_y, diagonal)
    if KIND == "ciou":
        _, v, weight = aspect(px1 - px0, py1 - py0, tx1 - tx0, ty1 - ty0, iou)
        loss += weight * v
    row = first + tl.arange(0, BLOCK)
    tl.store(output + row, loss, mask=row < count)


@triton.jit
def of_axis(low, high, other_low, other_high, by_intersection, by_hull):
    """Gradients of two intervals by the lengths of their intersection and of their hull; halves for equal ends."""
    left = tl.where(low < other_low, 1.0, tl.where(low == other_low, 0.5, 0.0))
    right = tl.where(high < other_high, 1.0, tl.where(high == other_high, 0.5, 0.0))
    by_low = -by_intersection * (1.0 - left) - by_hull * left
    by_high = by_intersection * right + by_hull * (1.0 - right)
    by_other_low = -by_intersection * left - by_hull * (1.0 - left)
    by_other_high = by_intersection * (1.0 - right) + by_hull * right
    return by_low, by_high, by_other_low, by_other_high


@triton.jit
def by_sides(width, height, by_area):
    """Gradients of the sides by an area, whose sides count as at least 0."""
    by_width = tl.where(width > 0, by_area * most(height, 0.0), 0.0)
    by_height = tl.where(height > 0, by_area * most(width, 0.0), 0.0)
    return by_width, by_height


@triton.jit(do_not_specialize=("count",))
def box_loss_backward_kernel(
    grad, prediction, target, by_prediction, by_target, count,
    KIND: tl.constexpr, CXCYWH: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
    NEEDS_PREDICTION: tl.constexpr, NEEDS_TARGET: tl.constexpr,
):  # fmt: skip
    """by_prediction and by_target (count, 4) from the loss's gradient (count,). `by_x`: derivative of the loss by x."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    row = first + tl.arange(0, BLOCK)
    scale = tl.load(grad + row, mask=row < count, other=0.0).to(ACC)
    px0, py0, px1, py1 = load_boxes(prediction, first, count, BLOCK, CXCYWH, ACC)
    tx0, ty0, tx1, ty1 = load_boxes(target, first, count, BLOCK, CXCYWH, ACC)
    cut_w, cut_h, intersection, union_as_is = overlap(px0, py0, px1, py1, tx0, ty0, tx1, ty1)
    union = bounded(union_as_is)
    iou = divided(intersection, union)
    by_union = divided(iou, union)
    hull_w, hull_h = hull_sides(px0, py0, px1, py1, tx0, ty0, tx1, ty1)
    by_hull_w = tl.zeros_like(iou)
    by_hull_h = tl.zeros_like(iou)
    by_centre_x = tl.zeros_like(iou)
    by_centre_y = tl.zeros_like(iou)
    if KIND == "giou":
        hull_as_is = most(hull_w, 0.0) * most(hull_h, 0.0)
        hull = bounded(hull_as_is)
        by_union -= divided(1.0, hull)
        by_hull = tl.where(hull_as_is > EPS, divided(divided(union, hull), hull), 0.0)
        by_hull_w, by_hull_h = by_sides(hull_w, hull_h, by_hull)
    if KIND == "diou" or KIND == "ciou":
        diagonal_as_is = hull_w * hull_w + hull_h * hull_h
        diagonal = bounded(diagonal_as_is)
        offset_x = ((px0 + px1) - (tx0 + tx1)) * 0.5
        offset_y = ((py0 + py1) - (ty0 + ty1)) * 0.5
        distance = divided(offset_x * offset_x + offset_y * offset_y, diagonal)
        by_diagonal = tl.where(diagonal_as_is > EPS, -divided(distance, diagonal), 0.0)
        by_hull_w, by_hull_h = 2.0 * hull_w * by_diagonal, 2.0 * hull_h * by_diagonal
        # Of each of the two corners whose mean the centre is.
        by_centre_x, by_centre_y = divided(offset_x, diagonal), divided(offset_y, diagonal)
    by_union = tl.where(union_as_is > EPS, by_union, 0.0)
    by_cut_w, by_cut_h = by_sides(cut_w, cut_h, -divided(1.0, union) - by_union)
    by_pw, by_ph = by_sides(px1 - px0, py1 - py0, by_union)
    by_tw, by_th = by_sides(tx1 - tx0, ty1 - ty0, by_union)
    if KIND == "ciou":
        pw, ph, tw, th = px1 - px0, py1 - py0, tx1 - tx0, ty1 - ty0
        difference, _, weight = aspect(pw, ph, tw, th, iou)
        by_angle = weight * difference * (8 / (PI * PI))
        # Without an aspect ratio there is no difference of angles; else the squares are more than the bound.
        by_p = divided(by_angle, most(pw * pw + ph * ph, SMALLEST))
        by_t = divided(by_angle, most(tw * tw + th * th, SMALLEST))
        by_pw, by_ph = by_pw - by_p * ph, by_ph + by_p * pw
        by_tw, by_th = by_tw + by_t * th, by_th - by_t * tw
    gpx0, gpx1, gtx0, gtx1 = of_axis(px0, px1, tx0, tx1, by_cut_w, by_hull_w)
    gpy0, gpy1, gty0, gty1 = of_axis(py0, py1, ty0, ty1, by_cut_h, by_hull_h)
    if NEEDS_PREDICTION:
        store_gradients(
            by_prediction, first, count,
            scale * (gpx0 - by_pw + by_centre_x), scale * (gpy0 - by_ph + by_centre_y),
            scale * (gpx1 + by_pw + by_centre_x), scale * (gpy1 + by_ph + by_centre_y),
            BLOCK, CXCYWH,
        )  # fmt: skip
    if NEEDS_TARGET:
        store_gradients(
            by_target, first, count,
            scale * (gtx0 - by_tw - by_centre_x), scale * (gty0 - by_th - by_centre_y),
            scale * (gtx1 + by_tw - by_centre_x), scale * (gty1 + by_th - by_centre_y),
            BLOCK, CXCYWH,
        )  # fmt: skip
