"""Random sampling of assigned priors at a fixed share of positives (RPN, Faster-RCNN).

Dimension key: B images, P priors, S samples (padded).
"""

from __future__ import annotations

import torch
from torch import Tensor


def sample_balanced(
    gt_index: Tensor, priority: Tensor, *, count: int, positive_fraction: float
) -> tuple[Tensor, Tensor]:
    """Choose up to `count` priors of each image at random, positives first, without asking the device anything.

    gt_index: (B, P) int64 as an assigner gives it; ignored priors are never chosen. At most `positive_fraction` of
    `count` are positives, negatives fill the rest as far as there are any. priority: (B, P) random numbers of at least
    0; of the positives, and of the negatives, those with the largest are chosen.

    Returns index (B, S) int64 and valid (B, S) bool, S = min(count, P); the valid slots come first.
    """
    num_priors = gt_index.shape[1]
    most_positives = min(max(1, int(count * positive_fraction)), num_priors)
    score, positive = priority.masked_fill(gt_index < 0, -1).topk(most_positives, dim=1)
    has_positive = score >= 0
    score, negative = priority.masked_fill(gt_index != -1, -1).topk(min(count, num_priors), dim=1)
    place = torch.arange(negative.shape[1], device=gt_index.device)
    has_negative = (score >= 0) & (place < count - has_positive.sum(1, keepdim=True))
    valid = torch.cat([has_positive, has_negative], dim=1)
    index = torch.cat([positive, negative], dim=1)
    order = (~valid).byte().argsort(dim=1, stable=True)[:, : min(count, num_priors)]
    return index.gather(1, order), valid.gather(1, order)
