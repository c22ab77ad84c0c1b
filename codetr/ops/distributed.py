"""The one reduction that losses need: a divisor averaged over the ranks."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over all ranks, detached; the tensor itself where there is only one process.

    value: any shape, float. Every rank must call this the same number of times.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
