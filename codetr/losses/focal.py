"""Class losses. All are unreduced, or summed over the classes of a row where they say so: the caller weights, sums and
divides."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from codetr_kernels.losses import distribution_focal_loss, quality_focal_loss, sigmoid_focal_loss_rows
from codetr_kernels.losses.reference import one_hot
from torch import Tensor

from codetr.ops.boxes import widened

__all__ = [
    "binary_cross_entropy",
    "distribution_focal_loss",
    "one_hot",
    "quality_focal_loss",
    "sigmoid_focal_loss",
    "sigmoid_focal_loss_rows",
]


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of logits against targets in [0, 1], of the same shape, in at least float32."""
    return F.binary_cross_entropy_with_logits(widened(logits), widened(targets), reduction="none")


def sigmoid_focal_loss(logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (..., K) of logits (..., K) against labels (...) int64, where K stands for background.

    Where its sum over the classes is all that is wanted, `sigmoid_focal_loss_rows` needs no such tensor.

    alpha: weight of the positive entries, 1 - alpha that of the negative ones. gamma: exponent of the modulation.

    Source: Lin et al., Focal Loss for Dense Object Detection, Eq. 5.
    """
    logits = widened(logits)
    target = one_hot(labels, logits.shape[-1])
    probability = logits.sigmoid()
    miss = torch.where(target, 1 - probability, probability)
    weight = torch.where(target, alpha, 1 - alpha)
    return weight * miss.pow(gamma) * binary_cross_entropy(logits, target.to(logits.dtype))
