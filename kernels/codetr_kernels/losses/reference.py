"""Class losses summed over each row, in PyTorch's operations, for any device: the specification.

With z the logit in the wrong direction (-x of the labelled class, x of all others), sigmoid(z) is what the prediction
misses and softplus(z) its cross-entropy. Logarithms of both come from `logsigmoid`, so every finite logit has a finite
loss and gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """The tensor in at least single precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def sigmoid_focal_loss_rows_reference(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, *, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """`codetr_kernels.sigmoid_focal_loss_rows`."""
    logits = _counted(widened(logits), weights)
    is_label = one_hot(labels, logits.shape[-1])
    wrong = torch.where(is_label, -logits, logits)
    modulation = wrong.sigmoid().square() if gamma == 2 else (gamma * F.logsigmoid(wrong)).exp()
    loss = torch.where(is_label, alpha, 1 - alpha) * modulation * -F.logsigmoid(-wrong)
    return _weighted(loss.sum(-1), weights)


def quality_focal_loss_reference(
    logits: Tensor, labels: Tensor, quality: Tensor, weights: Tensor | None = None, *, beta: float = 2.0
) -> Tensor:
    """`codetr_kernels.quality_focal_loss`."""
    logits = _counted(widened(logits), weights)
    is_label = one_hot(labels, logits.shape[-1])
    wanted = torch.where(is_label, quality.detach().to(logits.dtype).unsqueeze(-1), 0.0)
    distance = logits.sigmoid() - wanted
    modulation = distance.square() if beta == 2 else distance.abs().pow(beta)
    entropy = -F.logsigmoid(-logits) - torch.where(is_label, logits * wanted, 0.0)
    return _weighted((modulation * entropy).sum(-1), weights)


def distribution_focal_loss_reference(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """`codetr_kernels.distribution_focal_loss`."""
    logits = _counted(widened(logits), weights)
    largest = logits.shape[-1] - 1
    place = target.detach().to(logits.dtype).clamp(0, largest).unsqueeze(-1)
    # 1 at the target and 0 one bin away: the shares of the two bins around it.
    share = (1 - (torch.arange(largest + 1, device=logits.device) - place).abs()).clamp(min=0)
    return _weighted(-(share * logits.log_softmax(-1)).sum(-1), weights)


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """(...) labels to (..., K) bool; a label that is no class gives a row of False."""
    return labels.unsqueeze(-1) == torch.arange(num_classes, device=labels.device)


def _counted(logits: Tensor, weights: Tensor | None) -> Tensor:
    """Zeros in the rows of weight 0: whatever stands there leaves no trace, not even of NaN."""
    return logits if weights is None else logits.masked_fill((weights == 0).unsqueeze(-1), 0.0)


def _weighted(rows: Tensor, weights: Tensor | None) -> Tensor:
    return rows if weights is None else rows * weights.detach().to(rows.dtype)
