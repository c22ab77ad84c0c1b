"""Picking positives into static slots."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from codetr.models.parts.positive_sampler import PositiveSampler, gather_positives
from codetr.ops.gather import take

K = 5


def labels_with(*positives: int, size: int = 40) -> Tensor:
    """One image a count: that many positives at the end, the rest background."""
    place = torch.arange(size)
    return torch.stack([torch.where(place >= size - count, 2, K) for count in positives])


def picks(sampler: PositiveSampler, labels: Tensor, candidate: Tensor | None = None) -> tuple[Tensor, list[list[int]]]:
    candidate = torch.ones_like(labels, dtype=torch.bool) if candidate is None else candidate
    index, valid = sampler.pick(labels, candidate, K)
    rows = [row[keep].tolist() for row, keep in zip(index, valid, strict=True)]
    assert all(len(set(row)) == len(row) for row in rows)
    return valid, rows


def test_mask_leaves_the_rest_of_the_slots_invalid() -> None:
    valid, rows = picks(PositiveSampler(limit=10), labels_with(3, 0))
    assert valid.shape == (2, 10)
    assert [set(row) for row in rows] == [{37, 38, 39}, set()]


def test_slots_are_no_more_than_candidates() -> None:
    for fill in ("mask", "negatives"):
        valid, rows = picks(PositiveSampler(fill=fill), labels_with(3, size=5))
        assert valid.shape == (1, 5)
        assert set(rows[0][:3]) == {2, 3, 4}


def test_more_positives_than_the_limit_give_a_random_subset() -> None:
    seen = set()
    for _ in range(100):
        _, rows = picks(PositiveSampler(limit=2), labels_with(3))
        assert len(rows[0]) == 2 and set(rows[0]) < {37, 38, 39}
        seen.add(frozenset(rows[0]))
    assert len(seen) == 3


def test_negatives_fill_up_to_the_most_positives_of_the_batch() -> None:
    valid, rows = picks(PositiveSampler(limit=30, fill="negatives"), labels_with(12, 4))
    assert valid.shape == (2, 30) and valid.sum(1).tolist() == [12, 12]
    assert set(rows[0]) == set(range(28, 40))
    assert set(rows[1][:4]) == {36, 37, 38, 39} and max(rows[1][4:]) < 36


def test_negatives_fill_up_to_the_minimum() -> None:
    assert picks(PositiveSampler(fill="negatives"), labels_with(3, 0))[0].sum(1).tolist() == [9, 9]
    assert picks(PositiveSampler(fill="negatives", limit=4), labels_with(0))[0].sum(1).tolist() == [9]


def test_negatives_fill_no_further_than_the_limit() -> None:
    valid, rows = picks(PositiveSampler(limit=10, fill="negatives"), labels_with(20, 1))
    assert valid.sum(1).tolist() == [10, 10]
    assert min(rows[0]) >= 20


def test_only_candidates_are_picked() -> None:
    candidate = torch.arange(40) % 2 == 0
    _, rows = picks(PositiveSampler(fill="negatives"), labels_with(4), candidate.expand(1, 40))
    assert set(rows[0][:2]) == {36, 38} and len(rows[0]) == 9 and all(i % 2 == 0 for i in rows[0])
    valid, _ = picks(PositiveSampler(fill="negatives"), labels_with(0), torch.arange(40).expand(1, 40) < 3)
    assert valid.sum() == 3, "fewer candidates than the minimum"


def test_the_generator_decides() -> None:
    torch.manual_seed(5)
    once = picks(PositiveSampler(limit=3, fill="negatives"), labels_with(9, 1))[1]
    torch.manual_seed(5)
    assert picks(PositiveSampler(limit=3, fill="negatives"), labels_with(9, 1))[1] == once


def test_seeds_decide_for_each_image_alone() -> None:
    """Whatever the batch is, however many cells padding adds at the end, and whatever the global generator is up to."""
    seeds, labels = torch.tensor([5, 6, 7]), labels_with(30, 40, 25)
    candidate = torch.ones_like(labels, dtype=torch.bool)
    for fill in ("mask", "negatives"):
        sampler = PositiveSampler(limit=8, fill=fill, stream=3)
        index, valid = sampler.pick(labels, candidate, K, seeds=seeds)
        padded = torch.cat([labels, labels.new_full((3, 9), K)], 1)
        more = torch.cat([candidate, candidate.new_zeros(3, 9)], 1)
        assert torch.equal(sampler.pick(padded, more, K, seeds=seeds)[0], index) and valid.all()
        alone, _ = sampler.pick(labels[2:], candidate[2:], K, seeds=seeds[2:])
        assert torch.equal(alone, index[2:])
        other = replace(sampler, stream=4).pick(labels, candidate, K, seeds=seeds)[0]
        assert not torch.equal(other, index)


def test_take() -> None:
    values = torch.arange(12.0).view(1, 4, 3)
    assert take(values, torch.tensor([[3, 0]])).tolist() == [[[9, 10, 11], [0, 1, 2]]]


def test_gather_positives() -> None:
    boxes = torch.arange(12.0).view(1, 3, 4).requires_grad_()
    features = torch.arange(6.0).view(1, 3, 2).requires_grad_()
    picked = (torch.tensor([[2, 0]]), torch.tensor([[True, False]]))
    positives = gather_positives(
        picked,
        boxes=boxes,
        features=features,
        labels=torch.tensor([[1, K, 3]]),
        targets=torch.ones(1, 3, 4),
        background=K,
    )
    assert positives.boxes.tolist() == [[[8, 9, 10, 11], [0, 1, 2, 3]]] and not positives.boxes.requires_grad
    assert positives.features.tolist() == [[[4, 5], [0, 1]]] and positives.features.requires_grad
    assert positives.labels.tolist() == [[3, K]]
    assert positives.targets.tolist() == [[[1, 1, 1, 1], [0, 0, 0, 0]]]
    assert positives.valid.tolist() == [[True, False]]


def test_candidates_of_a_cell_share_its_features() -> None:
    """Three candidates a cell: the candidates 1 and 5 lie in the cells 0 and 1."""
    positives = gather_positives(
        (torch.tensor([[5, 1]]), torch.ones(1, 2, dtype=torch.bool)),
        boxes=torch.zeros(1, 6, 4),
        features=torch.tensor([[[1.0, 2], [3, 4]]]),
        labels=torch.zeros(1, 6, dtype=torch.int64),
        targets=torch.zeros(1, 6, 4),
        background=K,
        per_cell=3,
    )
    assert positives.features.tolist() == [[[3, 4], [1, 2]]]
