"""Class losses of rows and their gradients: a block of rows a program, read in chunks of columns."""

import triton
import triton.language as tl


@triton.jit
def sigmoid_parts(x):
    """sigmoid(x), sigmoid(-x) and softplus(-|x|), each to the precision of the type, for every finite x.

    log(1 + u) of a small u is what the logarithm gives plus what rounding 1 + u lost, to first order.
    """
    u = tl.exp(-tl.abs(x))
    total = 1.0 + u
    small = 1.0 / total
    log_total = tl.log(total) - ((total - 1.0) - u) * small
    large = u * small
    return tl.where(x >= 0, small, large), tl.where(x >= 0, large, small), log_total


@triton.jit
def focal(x, is_label, alpha, gamma, SQUARE: tl.constexpr):
    """Focal loss of each entry and its derivative.

    With z the logit in the wrong direction: weight * sigmoid(z)**gamma * softplus(z), and the power is
    exp(gamma * log(sigmoid(z))), of a logarithm that is at hand.
    """
    z = tl.where(is_label, -x, x)
    missed, hit, log_total = sigmoid_parts(z)
    entropy = tl.maximum(z, 0.0) + log_total
    modulation = missed * missed if SQUARE else tl.exp(gamma * (tl.minimum(z, 0.0) - log_total))
    scaled = tl.where(is_label, alpha, 1.0 - alpha) * modulation
    slope = scaled * (gamma * hit * entropy + missed)
    return scaled * entropy, tl.where(is_label, -slope, slope)


@triton.jit
def quality_focal(x, is_label, quality, beta, SQUARE: tl.constexpr):
    """Quality focal loss of each entry and its derivative: |p - y|**beta times the cross-entropy of p and y."""
    p, other, log_total = sigmoid_parts(x)
    wanted = tl.where(is_label, quality, 0.0)
    entropy = tl.maximum(x, 0.0) + log_total - tl.where(is_label, x * wanted, 0.0)
    distance = p - wanted
    size = tl.abs(distance)
    if SQUARE:
        modulation = distance * distance
        slope = size
    else:
        # |d|**beta / |d| is 0 at d = 0, whatever its limit: there it is multiplied by d or by its sign.
        some = size != 0.0
        logarithm = tl.log(tl.where(some, size, 1.0))
        modulation = tl.where(some, tl.exp(beta * logarithm), 0.0)
        slope = tl.where(some, tl.exp((beta - 1.0) * logarithm), 0.0)
    sign = tl.where(distance > 0, 1.0, tl.where(distance < 0, -1.0, 0.0))
    return modulation * entropy, beta * slope * sign * p * other * entropy + modulation * distance


@triton.jit
def entries(
    logits, rows, start, labels, quality, alpha, exponent, reads,
    K: tl.constexpr, QUALITY: tl.constexpr, SQUARE: tl.constexpr, ACC: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Loss and derivative of a chunk of columns, the place of each entry, and whether there is one."""
    column = start + tl.arange(0, BLOCK_K)
    exists = reads[:, None] & (column < K)[None, :]
    place = rows[:, None] * K + column[None, :]
    x = tl.load(logits + place, mask=exists, other=0.0).to(ACC)
    is_label = labels[:, None] == column[None, :]
    if QUALITY:
        loss, slope = quality_focal(x, is_label, quality[:, None], exponent, SQUARE)
    else:
        loss, slope = focal(x, is_label, alpha, exponent, SQUARE)
    return loss, slope, place, exists


@triton.jit
def row_targets(
    labels, quality, weights, rows, exists,
    QUALITY: tl.constexpr, WEIGHTED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Label, quality and weight of each row; 0 instead of what is not given."""
    label = tl.load(labels + rows, mask=exists, other=-1)
    quality_of = tl.zeros_like(rows).to(ACC)
    weight = quality_of + 1.0
    if QUALITY:
        quality_of = tl.load(quality + rows, mask=exists, other=0.0).to(ACC)
    if WEIGHTED:
        weight = tl.load(weights + rows, mask=exists, other=0).to(ACC)
    return label, quality_of, weight


@triton.jit(do_not_specialize=("count",))
def class_loss_kernel(
    logits, labels, quality, weights, output, count, alpha, exponent,
    K: tl.constexpr, QUALITY: tl.constexpr, WEIGHTED: tl.constexpr, SQUARE: tl.constexpr, ACC: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """output (count,) of logits (count, K). Rows of weight 0 are not read. Grid: blocks of rows."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    exists = rows < count
    label, quality_of, weight = row_targets(labels, quality, weights, rows, exists, QUALITY, WEIGHTED, ACC)
    reads = exists & (weight != 0.0)
    sums = tl.zeros((BLOCK_R, BLOCK_K), ACC)
    for start in range(0, K, BLOCK_K):
        loss, _, _, real = entries(
            logits, rows, start, label, quality_of, alpha, exponent, reads, K, QUALITY, SQUARE, ACC, BLOCK_K
        )
        sums += tl.where(real, loss, 0.0)
    tl.store(output + rows, weight * tl.sum(sums, 1), mask=exists)


@triton.jit(do_not_specialize=("count",))
def class_loss_backward_kernel(
    grad, logits, labels, quality, weights, by_logits, count, alpha, exponent,
    K: tl.constexpr, QUALITY: tl.constexpr, WEIGHTED: tl.constexpr, SQUARE: tl.constexpr, ACC: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """by_logits (count, K) from the gradient of the rows' losses (count,). Grid: blocks of rows, chunks of columns."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    exists = rows < count
    label, quality_of, weight = row_targets(labels, quality, weights, rows, exists, QUALITY, WEIGHTED, ACC)
    reads = exists & (weight != 0.0)
    scale = weight * tl.load(grad + rows, mask=reads, other=0.0).to(ACC)
    for start in range(0, K, BLOCK_K):
        _, slope, place, real = entries(
            logits, rows, start, label, quality_of, alpha, exponent, reads, K, QUALITY, SQUARE, ACC, BLOCK_K
        )
        slope = tl.where(real, scale[:, None] * slope, 0.0)
        inside = exists[:, None] & (start + tl.arange(0, BLOCK_K) < K)[None, :]
        tl.store(by_logits + place, slope.to(by_logits.dtype.element_ty), mask=inside)


@triton.jit
def distribution(
    logits, target, weights, count, BINS: tl.constexpr, WEIGHTED: tl.constexpr, ACC: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """Rows, their weights, bins; logits less their largest, exponentials of them and the share of each bin."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    exists = rows < count
    weight = tl.zeros_like(rows).to(ACC) + 1.0
    if WEIGHTED:
        weight = tl.load(weights + rows, mask=exists, other=0).to(ACC)
    reads = exists & (weight != 0.0)
    bins = tl.arange(0, BLOCK_B)
    real = bins < BINS
    x = tl.load(logits + rows[:, None] * BINS + bins[None, :], mask=reads[:, None] & real[None, :], other=0.0).to(ACC)
    peak = tl.max(tl.where(real[None, :], x, float("-inf")), 1)
    x -= peak[:, None]
    exponential = tl.where(real[None, :], tl.exp(tl.where(real[None, :], x, 0.0)), 0.0)
    place = tl.load(target + rows, mask=reads, other=0.0).to(ACC)
    place = tl.minimum(
        tl.maximum(place, 0.0, propagate_nan=tl.PropagateNan.ALL), BINS - 1.0, propagate_nan=tl.PropagateNan.ALL
    )
    away = tl.abs(bins[None, :].to(ACC) - place[:, None])
    share = tl.where(real[None, :], tl.maximum(1.0 - away, 0.0, propagate_nan=tl.PropagateNan.ALL), 0.0)
    return rows, exists, reads, weight, x, exponential, share


@triton.jit(do_not_specialize=("count",))
def distribution_kernel(
    logits, target, weights, output, count,
    BINS: tl.constexpr, WEIGHTED: tl.constexpr, ACC: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """output (count,) of logits (count, BINS). Rows of weight 0 are not read. Grid: blocks of rows."""
    rows, exists, _, weight, x, exponential, share = distribution(
        logits, target, weights, count, BINS, WEIGHTED, ACC, BLOCK_R, BLOCK_B
    )
    loss = tl.sum(share * (tl.log(tl.sum(exponential, 1))[:, None] - x), 1)
    tl.store(output + rows, weight * loss, mask=exists)


@triton.jit(do_not_specialize=("count",))
def distribution_backward_kernel(
    grad, logits, target, weights, by_logits, count,
    BINS: tl.constexpr, WEIGHTED: tl.constexpr, ACC: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """by_logits (count, BINS) from the gradient of the rows' losses (count,). Grid: blocks of rows."""
    rows, exists, reads, weight, _, exponential, share = distribution(
        logits, target, weights, count, BINS, WEIGHTED, ACC, BLOCK_R, BLOCK_B
    )
    scale = weight * tl.load(grad + rows, mask=reads, other=0.0).to(ACC)
    slope = exponential / tl.sum(exponential, 1)[:, None] - share
    slope = tl.where(reads[:, None], scale[:, None] * slope, 0.0)
    bins = tl.arange(0, BLOCK_B)
    place = by_logits + rows[:, None] * BINS + bins[None, :]
    tl.store(place, slope.to(by_logits.dtype.element_ty), mask=exists[:, None] & (bins < BINS)[None, :])
