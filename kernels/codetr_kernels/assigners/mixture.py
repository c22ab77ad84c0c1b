"""Probabilistic anchor assignment: the candidates of each object, and their separation by a mixture of two Gaussians.

Source: Kim and Lee, Probabilistic Anchor Assignment with IoU Prediction for Object Detection, section 3.2. The fit is
that of scikit-learn's `GaussianMixture`, with which the paper's code works.

Dimension key: B images, P priors, G objects, L levels, K candidates of a level, T = L * K candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MOST_STEPS, TOLERANCE, LEAST_VARIANCE = 100, 1e-3, 1e-6
"""Of the fit: it ends when the mean log-likelihood changes by less than the tolerance."""


def level_candidates(
    losses: Tensor, gt_index: Tensor, *, num_gts: int, level_sizes: Sequence[int], topk: int
) -> tuple[Tensor, Tensor]:
    """The `topk` priors of least loss of every object and level: indices (B, G, T) and which there are, bool.

    Arguments as in `paa_assign`. Equal losses by rising index. Two sorts and no list of all pairs: a prior has one
    object.
    """
    batch, num_priors = gt_index.shape
    num_levels = len(level_sizes)
    device = losses.device
    level = torch.cat([torch.full((size,), number, device=device) for number, size in enumerate(level_sizes)])
    offered = (gt_index >= 0) & losses.isfinite()
    num_groups = num_gts * num_levels
    group = torch.where(offered, gt_index * num_levels + level, num_groups)
    order = losses.argsort(dim=1, stable=True)
    sorted_group, by_group = group.gather(1, order).sort(dim=1, stable=True)
    order = order.gather(1, by_group)
    place = torch.arange(num_priors, device=device).expand(batch, -1)
    starts = torch.ones_like(sorted_group, dtype=torch.bool)
    starts[:, 1:] = sorted_group[:, 1:] != sorted_group[:, :-1]
    rank = place - torch.where(starts, place, 0).cummax(dim=1).values
    is_kept = (rank < topk) & (sorted_group < num_groups)
    slot = torch.where(is_kept, sorted_group * topk + rank, num_groups * topk)
    # The last slot takes what is not kept.
    index = torch.full((batch, num_groups * topk + 1), -1, device=device).scatter(1, slot, order)
    index = index[:, :-1].unflatten(1, (num_gts, num_levels * topk))
    return index.clamp(min=0), index >= 0


def separate_reference(losses: Tensor, counted: Tensor) -> Tensor:
    """Which candidates (B, G, T) of each object are its positives, bool.

    losses: (B, G, T). counted: (B, G, T) bool, the candidates that there are; with fewer than two none is positive.
    """
    x = losses.double().masked_fill(~counted, 0.0)
    number = counted.sum(-1, keepdim=True).double()
    active = number >= 2
    weight = torch.full((2, *number.shape), 0.5, dtype=x.dtype, device=x.device)
    low = x.masked_fill(~counted, torch.inf).amin(-1, keepdim=True)
    high = x.masked_fill(~counted, -torch.inf).amax(-1, keepdim=True)
    mean = torch.stack([low, high]).masked_fill(~active, 0.0)
    variance = torch.ones_like(mean)
    likelihood = torch.full_like(number, -torch.inf)
    for _ in range(MOST_STEPS):
        joint, score = _log_density(x, weight, mean, variance)
        share = (joint - score).exp() * counted
        total = share.sum(-1, keepdim=True) + 10 * torch.finfo(x.dtype).eps
        new_mean = (share * x).sum(-1, keepdim=True) / total
        new_variance = (share * (x - new_mean).square()).sum(-1, keepdim=True) / total + LEAST_VARIANCE
        new_likelihood = (score * counted).sum(-1, keepdim=True) / number.clamp(min=1)
        weight = torch.where(active, total / number.clamp(min=1), weight)
        mean, variance = torch.where(active, new_mean, mean), torch.where(active, new_variance, variance)
        active = active & ~((new_likelihood - likelihood).abs() < TOLERANCE)
        likelihood = new_likelihood
    joint, score = _log_density(x, weight, mean, variance)
    foreground = counted & (joint[0] >= joint[1]) & (number >= 2)
    peak = score.masked_fill(~foreground, -torch.inf).amax(-1, keepdim=True)
    limit = x.masked_fill(~(foreground & (score == peak)), torch.inf).amin(-1, keepdim=True)
    return foreground & (x <= limit)


def _log_density(x: Tensor, weight: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Of the components times their weights, (2, B, G, T), and of the mixture, (B, G, T)."""
    squared = (x - mean).square() / variance
    joint = -0.5 * (math.log(2 * math.pi) + squared + variance.log()) + weight.log()
    return joint, joint.logsumexp(0)
