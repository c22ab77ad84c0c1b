"""Class losses summed over each row, with integer targets: contract and dispatch.

Neither one-hot targets nor a loss of each class exist in memory: a row is read once in each direction, and the gradient
is computed from the logits again.

Dimension key: K classes, R largest bin.
"""

from __future__ import annotations

import warnings

from torch import Tensor

from codetr_kernels.backend import runs_triton
from codetr_kernels.losses import checks, op
from codetr_kernels.losses.reference import (
    distribution_focal_loss_reference,
    quality_focal_loss_reference,
    sigmoid_focal_loss_rows_reference,
)

__all__ = [
    "distribution_focal_loss",
    "distribution_focal_loss_reference",
    "quality_focal_loss",
    "quality_focal_loss_reference",
    "sigmoid_focal_loss_rows",
    "sigmoid_focal_loss_rows_reference",
]


def sigmoid_focal_loss_rows(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, *, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Focal loss (...) of logits (..., K), summed over the classes of each row, times the row's weight.

    labels: (...) int64 or int32; any that is not in 0 to K - 1 stands for background. weights: (...) floating-point or
    bool; a row of weight 0 is not looked at: its loss and gradient are 0 even where its logits are no numbers. alpha:
    weight of the labelled entries, 1 - alpha that of all others. gamma: at least 0, the exponent of the modulation.
    Returns float32, or float64 where the logits are; gradients flow to the logits alone, second derivatives go through
    the reference. Every finite logit has a finite loss and gradient. An infinite one costs 0 on the right side, with
    gamma > 0, and infinity, without a gradient that is a number, on the wrong side; NaN gives NaN.

    Raises: ValueError for shapes that do not fit, types that are no logits, labels or weights, tensors on two devices,
    or a negative exponent.
    Source: Lin et al., Focal Loss for Dense Object Detection, Eq. 5.
    """
    checks.check(logits, weights, labels=labels)
    checks.check_labels(labels)
    checks.check_exponent("gamma", gamma, 0)
    if not runs_triton(logits):
        return sigmoid_focal_loss_rows_reference(logits, labels, weights, alpha=alpha, gamma=gamma)
    return op.class_loss(logits, labels, None, weights, alpha, gamma)


def quality_focal_loss(
    logits: Tensor, labels: Tensor, quality: Tensor, weights: Tensor | None = None, *, beta: float = 2.0
) -> Tensor:
    """Quality focal loss (...) of logits (..., K), summed over the classes of each row, times the row's weight.

    The labelled class is to predict `quality` (...), in [0, 1], such as the IoU of its box, all others 0. quality is a
    target: no gradient flows to it, and it is not looked at in rows of background. beta: at least 1, the exponent of
    the modulation. All else as in `sigmoid_focal_loss_rows`, but an infinite logit of the labelled class gives no
    number.

    Source: Li et al., Generalized Focal Loss, Eq. 5.
    """
    checks.check(logits, weights, labels=labels, quality=quality)
    checks.check_labels(labels)
    checks.check_real("quality", quality)
    checks.check_exponent("beta", beta, 1)
    if not runs_triton(logits, quality):
        return quality_focal_loss_reference(logits, labels, quality, weights, beta=beta)
    return op.class_loss(logits, labels, quality, weights, 0.0, beta)


def distribution_focal_loss(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy (...) of a distribution over the bins 0 to R, logits (..., R + 1), against a real target.

    target: (...), clamped to [0, R]; the two bins around it share it in proportion to their nearness. It is a constant:
    no gradient flows to it. weights, result and gradients: as in `sigmoid_focal_loss_rows`; logits that are infinite
    give no number.

    Raises: ValueError as `sigmoid_focal_loss_rows`, and for fewer than two bins.
    Source: Li et al., Generalized Focal Loss, Eq. 6.
    """
    checks.check(logits, weights, target=target)
    checks.check_real("target", target)
    checks.check_bins(logits)
    if not runs_triton(logits, target):
        return distribution_focal_loss_reference(logits, target, weights)
    reason = checks.beyond_kernels(logits)
    if reason is not None:
        warnings.warn(
            f"distribution_focal_loss runs its reference, not its kernel: {reason}", RuntimeWarning, stacklevel=2
        )
        return distribution_focal_loss_reference(logits, target, weights)
    return op.distribution_focal_loss(logits, target, weights)
