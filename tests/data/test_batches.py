from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codetr.data.batches import evaluation_batches, sample_seed, training_batches


def _flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


def test_training_shuffles_differently_each_epoch_and_seed() -> None:
    ratios = [1.0] * 40

    def order(seed: int, epoch: int) -> list[int]:
        return _flat(training_batches(ratios, batch_size=4, seed=seed, epoch=epoch))

    assert order(0, 0) == order(0, 0)
    assert sorted(order(0, 0)) == list(range(40))
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_without_grouping_every_image_comes_once_too() -> None:
    batches = training_batches([0.5, 2.0] * 10, batch_size=4, seed=1, epoch=0, group_by_shape=False)
    assert sorted(_flat(batches)) == list(range(20))
    assert any({index % 2 for index in batch} == {0, 1} for batch in batches)


def test_drop_last_and_repetition() -> None:
    ratios = [1.0] * 10
    dropped = training_batches(ratios, batch_size=4, seed=0, epoch=0)
    assert [len(batch) for batch in dropped] == [4, 4]
    assert len(set(_flat(dropped))) == 8
    completed = training_batches(ratios, batch_size=4, seed=0, epoch=0, drop_last=False)
    assert [len(batch) for batch in completed] == [4, 4, 4]
    assert set(_flat(completed)) == set(range(10))


def test_never_zero_batches() -> None:
    batches = [training_batches([1.0] * 3, batch_size=4, seed=0, epoch=0, rank=rank, world_size=2) for rank in (0, 1)]
    assert [len(batch) for own in batches for batch in own] == [4, 4]
    counts = [_flat(batches[0] + batches[1]).count(index) for index in range(3)]
    assert sorted(counts) == [2, 3, 3]


@given(
    images=st.integers(1, 60),
    batch_size=st.integers(1, 5),
    world_size=st.integers(1, 4),
    drop_last=st.booleans(),
    grouped=st.booleans(),
)
def test_ranks_share_an_epoch(images: int, batch_size: int, world_size: int, drop_last: bool, grouped: bool) -> None:
    ratios = [1 + index % 3 for index in range(images)]
    ranks = [
        training_batches(
            ratios,
            batch_size=batch_size,
            seed=3,
            epoch=2,
            rank=rank,
            world_size=world_size,
            drop_last=drop_last,
            group_by_shape=grouped,
        )
        for rank in range(world_size)
    ]
    steps = max(1, images // (batch_size * world_size))
    if not drop_last:
        steps = -(-images // (batch_size * world_size))
    assert [len(own) for own in ranks] == [steps] * world_size
    assert all(len(batch) == batch_size for own in ranks for batch in own)
    taken = [index for own in ranks for index in _flat(own)]
    counts = [taken.count(index) for index in range(images)]
    assert max(counts) - min(counts) <= 1
    if images >= batch_size * world_size and drop_last:
        assert max(counts) == 1


def _steps(images: int, batch: int, world: int, pieces: int, *, grouped: bool, drop_last: bool) -> list[list[int]]:
    """The images of every step, in order of piece and then of rank."""
    ranks = [
        training_batches(
            [1 + index % 5 / 3 for index in range(images)],
            batch_size=batch // (world * pieces),
            seed=3,
            epoch=1,
            rank=rank,
            world_size=world,
            accumulate=pieces,
            group_by_shape=grouped,
            drop_last=drop_last,
        )
        for rank in range(world)
    ]
    rounds = [[index for own in shares for index in own] for shares in zip(*ranks, strict=True)]
    return [_flat(rounds[start : start + pieces]) for start in range(0, len(rounds), pieces)]


@given(images=st.integers(1, 70), grouped=st.booleans(), drop_last=st.booleans())
def test_a_step_has_the_same_images_however_it_is_divided(images: int, grouped: bool, drop_last: bool) -> None:
    """Eight images on 1, 2, 4 and 8 ranks, in 1, 2, 4 and 8 pieces: even in the same order."""
    whole = _steps(images, 8, 1, 1, grouped=grouped, drop_last=drop_last)
    for world, pieces in ((2, 1), (4, 1), (8, 1), (1, 2), (1, 8), (2, 2), (2, 4)):
        assert _steps(images, 8, world, pieces, grouped=grouped, drop_last=drop_last) == whole


def test_images_that_do_not_fill_a_step_are_left_out_of_all_of_its_pieces() -> None:
    assert [len(step) for step in _steps(23, 8, 1, 4, grouped=True, drop_last=True)] == [8, 8]
    assert [len(step) for step in _steps(23, 8, 1, 4, grouped=True, drop_last=False)] == [8, 8, 8]


@given(images=st.integers(0, 40), batch_size=st.integers(1, 5), world_size=st.integers(1, 4))
def test_evaluation_gives_each_image_to_one_rank(images: int, batch_size: int, world_size: int) -> None:
    ratios = [0.5 + (index * 7) % 5 for index in range(images)]
    ranks = [
        evaluation_batches(ratios, batch_size=batch_size, rank=r, world_size=world_size) for r in range(world_size)
    ]
    assert sorted(index for own in ranks for index in _flat(own)) == list(range(images))
    assert max(map(len, ranks)) - min(map(len, ranks)) <= 1


def test_evaluation_without_grouping_keeps_the_order() -> None:
    batches = evaluation_batches([2.0, 1.0, 3.0], batch_size=2, group_by_shape=False)
    assert batches == [[0, 1], [2]]
    assert evaluation_batches([2.0, 1.0, 3.0], batch_size=2) == [[1, 0], [2]]


def test_grouping_saves_most_of_the_padding() -> None:
    chance = random.Random(0)
    ratios = [chance.choice([0.56, 0.75, 1.0, 1.33, 1.5, 1.78]) for _ in range(600)]

    def waste(grouped: bool) -> float:
        used = total = 0.0
        for batch in training_batches(ratios, batch_size=4, seed=0, epoch=0, group_by_shape=grouped):
            # Sides of an image of area 1 and that ratio; a batch takes the largest of each.
            sides = [(ratios[index] ** -0.5, ratios[index] ** 0.5) for index in batch]
            used += len(batch)
            total += len(batch) * max(h for h, _ in sides) * max(w for _, w in sides)
        return 1 - used / total

    assert waste(grouped=False) > 0.2
    assert waste(grouped=True) < 0.02


def test_equally_shaped_images_change_company() -> None:
    ratios = [1.0, 2.0] * 100
    pairs = [
        {frozenset(batch) for batch in training_batches(ratios, batch_size=2, seed=0, epoch=epoch)} for epoch in (0, 1)
    ]
    assert len(pairs[0] & pairs[1]) < 10


@pytest.mark.parametrize("changed", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, -1)])
def test_sample_seeds_differ(changed: tuple[int, int, int]) -> None:
    assert sample_seed(*changed) != sample_seed(0, 0, 0)


def test_sample_seeds_are_spread() -> None:
    seeds = {sample_seed(seed, epoch, index) for seed in range(10) for epoch in range(10) for index in range(-1, 100)}
    assert len(seeds) == 10 * 10 * 101
    assert all(0 <= seed < 2**63 for seed in seeds)
    ones = sum(bin(seed).count("1") for seed in seeds) / len(seeds)
    assert abs(ones - 31.5) < 0.3  # deviation of the mean: 0.04


def test_an_image_that_comes_again_has_another_index() -> None:
    """Its index and the number of images, which stands for the same image with other seeds."""
    order = [2, 0, 2, 1, 2, 0]
    batches = training_batches([1.0, 0.5, 2.0], batch_size=2, seed=0, epoch=0, order=order, group_by_shape=False)
    assert batches == [[2, 0], [5, 1], [8, 3]]
    grouped = training_batches([1.0, 0.5, 2.0], batch_size=2, seed=0, epoch=0, order=order)
    assert sorted(map(sorted, grouped)) == [[0, 1], [2, 3], [5, 8]]


def test_windows_of_shards_come_one_after_the_other() -> None:
    """Six shards of forty images, two at a time, without grouping: 80 images of two shards, then of two others."""
    shards = [index % 6 for index in range(240)]
    windows = []
    for epoch in range(8):
        order = _flat(
            training_batches(
                [1.0] * 240,
                batch_size=4,
                seed=0,
                epoch=epoch,
                group_by_shape=False,
                shards=shards,
                shuffle_shards=2,
            )
        )
        assert sorted(order) == list(range(240))
        found = [{shards[index] for index in order[start : start + 80]} for start in (0, 80, 160)]
        assert [len(window) for window in found] == [2, 2, 2]
        # Within a window the shards take turns at random: of 239 neighbours 122 differ on average, give or take 8.
        assert sum(shards[a] != shards[b] for a, b in pairwise(order)) > 80
        windows.append(tuple(frozenset(window) for window in found))
    assert len(set(windows)) >= 6  # of 90, drawn anew in each epoch: a few may be equal by chance


def test_grouped_by_shape_reading_stays_within_a_window() -> None:
    """Of 400 images, which are no multiple of the 64 that are grouped together."""
    shards = [index % 6 for index in range(1200)]
    ratios = [1 + index % 5 / 3 for index in range(1200)]
    order = _flat(training_batches(ratios, batch_size=1, seed=0, epoch=0, shards=shards, shuffle_shards=2))
    for shard in range(6):
        places = [place for place, index in enumerate(order) if shards[index] == shard]
        assert len(places) == 200 and places[-1] - places[0] < 400


def test_all_shards_together_are_as_files() -> None:
    ratios = [1 + index % 5 / 3 for index in range(100)]
    shards = [index % 7 for index in range(100)]
    files = training_batches(ratios, batch_size=4, seed=3, epoch=1)
    assert training_batches(ratios, batch_size=4, seed=3, epoch=1, shards=shards, shuffle_shards=None) == files
    assert training_batches(ratios, batch_size=4, seed=3, epoch=1, shards=shards, shuffle_shards=2) != files


@given(
    images=st.integers(1, 300),
    shard_count=st.integers(1, 12),
    width=st.integers(1, 5),
    world=st.sampled_from([1, 2, 4]),
    grouped=st.booleans(),
    drop_last=st.booleans(),
    repeated=st.booleans(),
)
def test_shards_change_the_order_alone(
    images: int, shard_count: int, width: int, world: int, grouped: bool, drop_last: bool, repeated: bool
) -> None:
    """As many batches as files give, each image as often, and steps that do not depend on the ranks."""
    shards = [index * 7 % shard_count for index in range(images)]
    order = [index for index in range(images) for _ in range(1 + index % 3)] if repeated else None

    def steps(shuffle: int | None, ranks: int) -> list[list[int]]:
        own = [
            training_batches(
                [1 + index % 5 / 3 for index in range(images)],
                batch_size=4 // ranks,
                seed=3,
                epoch=1,
                rank=rank,
                world_size=ranks,
                group_by_shape=grouped,
                drop_last=drop_last,
                order=order,
                shards=shards,
                shuffle_shards=shuffle,
            )
            for rank in range(ranks)
        ]
        return [[index for batch in batches for index in batch] for batches in zip(*own, strict=True)]

    found = steps(width, world)
    assert found == steps(width, 1)
    assert len(found) == len(steps(None, 1))
    length = images if order is None else len(order)
    if length >= 4:
        counts = [_flat(found).count(index) for index in set(_flat(found))]
        assert max(counts) == 1 or not drop_last
        assert len(counts) >= length - (3 if drop_last else 0)
