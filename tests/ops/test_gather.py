"""Rows of a batch by index."""

from __future__ import annotations

import torch

from codetr.ops.gather import take


def test_rows_of_each_image() -> None:
    values = torch.arange(12.0).view(2, 3, 2)
    index = torch.tensor([[2, 0], [1, 1]])
    assert take(values, index).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]


def test_no_rows() -> None:
    assert take(torch.zeros(2, 3, 4), torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 0, 4)


def test_a_row_taken_twice_gets_both_gradients() -> None:
    values = torch.zeros(1, 3, 2, requires_grad=True)
    take(values, torch.tensor([[1, 1, 2]])).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[[0, 0], [2, 2], [1, 1]]]
