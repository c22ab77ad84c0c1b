"""Which images form which batch of an epoch, on which rank: a pure function of the seed and the epoch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

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
    order: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
    shuffle_shards: int | None = None,
) -> list[list[int]]:
    """The batches of one rank in a training epoch, as image indices; every rank has the same number, all of full size.

    ratios: width over height of each image. accumulate: consecutive batches that make one step. batch_size: images in
    one of them. The images of a step are the same for any division of it among ranks and pieces, each of which has a
    run of them; the ranks' shares of one piece are neighbours, so that they have similar shapes. The images that do not
    fill the last step are left out, or completed by repeating others without `drop_last`; there is always one step at
    least.

    order: the images of the epoch in random order, some several times, in place of each one once; the second time an
    image's index is its index plus the number of images, and so on, so that it gets other seeds. shards: the shard of
    each image. The images of `shuffle_shards` of them, a window chosen at random, are shuffled together, and then come
    those of the next window, so that reading stays within these files but for a step that has images of both. null:
    images of all shards are shuffled together.
    """
    generator = torch.Generator().manual_seed(sample_seed(seed, epoch, -1))
    drawn: list[int] = torch.randperm(len(ratios), generator=generator).tolist()
    images = drawn if order is None else _numbered(order, len(ratios))
    windows = _windows(shards, shuffle_shards, generator) if shards is not None and shuffle_shards is not None else [0]
    images.sort(key=lambda index: windows[index % len(windows)])  # stable: random within a window
    per_piece = batch_size * world_size
    per_step = per_piece * accumulate
    steps = max(1, len(images) // per_step if drop_last else math.ceil(len(images) / per_step))
    images = [images[position % len(images)] for position in range(steps * per_step)]
    firsts = [windows[images[step * per_step] % len(windows)] for step in range(steps)]
    if group_by_shape:
        pools = [[step * per_step for step in pool] for pool in _pools(firsts)]
        images = [index for pool in pools for index in _sorted(images[pool[0] : pool[-1] + per_step], ratios)]
        shuffled: list[int] = torch.randperm(steps, generator=generator).tolist()
        shuffled.sort(key=firsts.__getitem__)
    else:
        shuffled = list(range(steps))
    starts = [
        step * per_step + piece * per_piece + rank * batch_size for step in shuffled for piece in range(accumulate)
    ]
    return [images[start : start + batch_size] for start in starts]


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


def _pools(windows: Sequence[int]) -> list[range]:
    """The steps whose images are grouped by shape together: `POOL` of them, of one window. windows: of each step."""
    ends = [0, *(step for step in range(1, len(windows)) if windows[step] != windows[step - 1]), len(windows)]
    return [range(at, min(at + POOL, end)) for start, end in pairwise(ends) for at in range(start, end, POOL)]


def _numbered(order: Sequence[int], images: int) -> list[int]:
    """The n-th occurrence of an index counts on by so many images, n from 0."""
    times: Counter[int] = Counter()
    numbered = []
    for index in order:
        numbered.append(index + images * times[index])
        times[index] += 1
    return numbered


def _windows(shards: Sequence[int], width: int, generator: torch.Generator) -> list[int]:
    """The place of each image's window in the epoch: `width` shards, taken at random."""
    places: list[int] = torch.randperm(max(shards) + 1, generator=generator).tolist()
    return [places[shard] // width for shard in shards]


def _sorted(indices: list[int], ratios: Sequence[float]) -> list[int]:
    """By shape; equally shaped images keep their (random) order, so that their company changes from epoch to epoch."""
    return sorted(indices, key=lambda index: round(math.log2(ratios[index % len(ratios)]) * RATIO_STEPS))
