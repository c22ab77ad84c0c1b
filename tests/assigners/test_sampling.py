"""Balanced sampling."""

from __future__ import annotations

import torch
from torch import Tensor

from codetr.assigners.sampling import sample_balanced
from codetr.ops.draws import priorities


def chosen(gt_index: Tensor, *, count: int, positive_fraction: float) -> list[list[int]]:
    priority = priorities(None, gt_index, 0)
    index, valid = sample_balanced(gt_index, priority, count=count, positive_fraction=positive_fraction)
    assert index.shape == valid.shape == (len(gt_index), min(count, gt_index.shape[1]))
    assert torch.equal(valid, valid.sort(dim=1, descending=True).values), "valid slots come first"
    return [row[keep].tolist() for row, keep in zip(index, valid, strict=True)]


# Image 0: 3 positives, 4 negatives, 1 ignored. Image 1: 1 positive, 2 negatives. Image 2: ignored only.
GT_INDEX = torch.tensor(
    [[0, -1, 2, -1, -2, 1, -1, -1], [-2, -1, 0, -1, -2, -2, -2, -2], [-2, -2, -2, -2, -2, -2, -2, -2]]
)


def test_everything_when_there_is_room() -> None:
    first, second, third = chosen(GT_INDEX, count=100, positive_fraction=0.5)
    assert (set(first[:3]), set(first[3:])) == ({0, 2, 5}, {1, 3, 6, 7})
    assert (first := second[:1], set(second[1:])) == ([2], {1, 3})
    assert third == []


def test_the_share_of_positives_and_the_count_are_bounds() -> None:
    first, second, third = chosen(GT_INDEX, count=4, positive_fraction=0.5)
    assert len(set(first[:2]) & {0, 2, 5}) == 2 and len(set(first[2:]) & {1, 3, 6, 7}) == 2
    assert second[0] == 2 and set(second[1:]) == {1, 3}
    assert third == []


def test_every_subset_is_drawn() -> None:
    torch.manual_seed(0)
    seen = {frozenset(chosen(GT_INDEX[:1], count=4, positive_fraction=0.5)[0]) for _ in range(400)}
    assert len(seen) == 3 * 6  # two of three positives, two of four negatives


def test_the_priority_decides() -> None:
    """Of the positives 0, 2, 5 the two of the highest priority, of the negatives 1, 3, 6, 7 too; 4 is ignored."""
    priority = torch.tensor([[10, 3, 30, 1, 99, 20, 0, 2]])
    index, valid = sample_balanced(GT_INDEX[:1], priority, count=4, positive_fraction=0.5)
    assert index.tolist() == [[2, 5, 1, 7]] and valid.all()
