"""What losses must know of the other ranks, so that many processes compute what one would on all of their images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist
from torch import Tensor

_alone: ContextVar[bool] = ContextVar("alone", default=False)


def divisor(value: Tensor) -> Tensor:
    """What a rank divides its sum by, detached: `value` summed over the ranks, at least 1, over the number of ranks.

    The mean over ranks, which is what gradients become, is then the sum over all images divided by the sum of `value`
    over all of them, or by 1: exactly what one process has. (The mean of `value` clamped to 1 would not be that: two
    ranks with one object between them would divide by 2.) An accumulated piece is divided by its own sum over ranks.

    value: any shape, float. Every rank must call this the same number of times.
    """
    if not _has_company():
        return value.detach().clamp(min=1)
    total = value.detach().clone()
    dist.all_reduce(total)
    return total.clamp(min=1) / dist.get_world_size()


def max_over_ranks(value: Tensor) -> Tensor:
    """The largest value of all ranks, element by element, detached. Every rank must call this as often."""
    if not _has_company():
        return value.detach()
    largest = value.detach().clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest


def largest_over_ranks(value: int) -> int:
    """The largest of a number that the hosts know, such as an extent of tensors. Every rank must call this as often.

    The hosts talk to each other: no device takes part or is waited for. The process group needs a backend for CPUs
    (`cpu:gloo,cuda:nccl`).
    """
    if not _has_company():
        return value
    largest = torch.tensor(value)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)


@contextmanager
def alone() -> Iterator[None]:
    """Within this block a rank computes as if it were the only one, and may do so by itself."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def _has_company() -> bool:
    return not _alone.get() and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
