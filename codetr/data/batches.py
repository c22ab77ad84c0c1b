"""Which images form which batch of an epoch, on which rank: a pure function of the seed and the epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

RATIO_STEPS = 8  # images whose log2 of the aspect ratio falls into the same eighth count as equally shaped
POOL = 64  # steps whose images are grouped by shape together; more leave less padding and less chance


def training_batches(
    ratios: Sequence[float],
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    accumulate: int = 1,
    group_by_shape: bool = True,
    drop_last: bool = True,
) -> list[list[int]]:
    """The batches of one rank in a training epoch, as image indices; every rank has the same number, all of full size.

    ratios: width over height of each image. accumulate: consecutive batches that make one step. batch_size: images in
    one of them. The images of a step are the same for any division of it among ranks and pieces, each of which has a
    run of them; the ranks' shares of one piece are neighbours, so that they have similar shapes. The images that do not
    fill the last step are left out, or completed by repeating others without `drop_last`; there is always one step at
    least.
    """
    generator = torch.Generator().manual_seed(sample_seed(seed, epoch, -1))
    order: list[int] = torch.randperm(len(ratios), generator=generator).tolist()
    per_piece = batch_size * world_size
    per_step = per_piece * accumulate
    steps = max(1, len(order) // per_step if drop_last else math.ceil(len(order) / per_step))
    order = [order[position % len(order)] for position in range(steps * per_step)]
    if group_by_shape:
        pool = POOL * per_step
        order = [
            index for start in range(0, len(order), pool) for index in _sorted(order[start : start + pool], ratios)
        ]
        shuffled: list[int] = torch.randperm(steps, generator=generator).tolist()
    else:
        shuffled = list(range(steps))
    starts = [
        step * per_step + piece * per_piece + rank * batch_size for step in shuffled for piece in range(accumulate)
    ]
    return [order[start : start + batch_size] for start in starts]


def evaluation_batches(
    ratios: Sequence[float], *, batch_size: int, rank: int = 0, world_size: int = 1, group_by_shape: bool = True
) -> list[list[int]]:
    """The batches of one rank in evaluation: each image once over all ranks, so that ranks may differ by one batch."""
    order = list(range(len(ratios)))
    if group_by_shape:
        order = _sorted(order, ratios)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return batches[rank::world_size]


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """A 63-bit seed for one image in one epoch, as good as independent of its neighbours'."""
    state = 0
    for value in (seed, epoch, index):  # splitmix64's finaliser, so that close inputs give unrelated generators
        state = (state ^ value) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ state >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


def _sorted(indices: list[int], ratios: Sequence[float]) -> list[int]:
    """By shape; equally shaped images keep their (random) order, so that their company changes from epoch to epoch."""
    return sorted(indices, key=lambda index: round(math.log2(ratios[index]) * RATIO_STEPS))
