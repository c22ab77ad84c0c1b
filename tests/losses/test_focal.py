"""Focal loss and binary cross-entropy."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss as torchvision_focal

from codetr.losses.focal import (
    binary_cross_entropy,
    distribution_focal_loss,
    one_hot,
    quality_focal_loss,
    sigmoid_focal_loss,
    sigmoid_focal_loss_rows,
)


def test_one_hot_gives_background_no_class() -> None:
    assert one_hot(torch.tensor([1, 2]), 2).tolist() == [[False, True], [False, False]]


def test_literal() -> None:
    loss = sigmoid_focal_loss(torch.zeros(2, 2), torch.tensor([0, 2]))  # every probability is 1/2
    positive, negative = 0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2)
    torch.testing.assert_close(loss, torch.tensor([[positive, negative], [negative, negative]]))


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.4, 1.5), (0.5, 0.0)])
def test_equals_torchvision(alpha: float, gamma: float) -> None:
    logits = torch.randn(3, 40, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 6, (3, 40))
    ours = sigmoid_focal_loss(logits, labels, alpha=alpha, gamma=gamma)
    theirs = torchvision_focal(logits, one_hot(labels, 5).double(), alpha=alpha, gamma=gamma)
    torch.testing.assert_close(ours, theirs)
    gradient = torch.autograd.grad(ours.sum(), logits)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs.sum(), logits)[0])


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.4, 1.5)])
def test_rows_are_sums_over_classes(alpha: float, gamma: float) -> None:
    logits = torch.randn(3, 40, 5, requires_grad=True)
    labels, counted = torch.randint(0, 6, (3, 40)), torch.rand(3, 40) < 0.5
    rows = sigmoid_focal_loss_rows(logits, labels, counted, alpha=alpha, gamma=gamma)
    entries = sigmoid_focal_loss(logits, labels, alpha=alpha, gamma=gamma) * counted.unsqueeze(-1)
    torch.testing.assert_close(rows, entries.sum(-1))
    gradient = torch.autograd.grad(rows.sum(), logits)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(entries.sum(), logits)[0])


def test_certain_predictions_stay_finite() -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([1]))
    loss.sum().backward()
    assert loss.isfinite().all() and logits.grad is not None and logits.grad.isfinite().all()


def test_half_precision_is_widened() -> None:
    logits = torch.zeros(1, 2, dtype=torch.bfloat16)
    assert sigmoid_focal_loss(logits, torch.tensor([0])).dtype == torch.float32
    assert binary_cross_entropy(logits, logits).dtype == torch.float32


def test_binary_cross_entropy_takes_soft_targets() -> None:
    loss = binary_cross_entropy(torch.tensor([0.0, math.log(3)]), torch.tensor([0.3, 1.0]))
    torch.testing.assert_close(loss, torch.tensor([math.log(2), math.log(4 / 3)]))


def test_quality_focal_literal() -> None:
    """Probabilities of 1/2: a quality of 1/4 costs (1/4)^2 log 2, 1/2 nothing, every other class (1/2)^2 log 2."""
    loss = quality_focal_loss(torch.zeros(3, 2), torch.tensor([0, 1, 2]), torch.tensor([0.25, 0.5, 0.9]))
    torch.testing.assert_close(loss, math.log(2) * torch.tensor([1 / 16 + 1 / 4, 1 / 4, 1 / 2]))


def test_distribution_focal_literal() -> None:
    """Three bins of 1/8, 1/4 and 5/8: the target 1.9 wants 0.1 of the second and 0.9 of the third."""
    logits = torch.tensor([[1.0, 2, 5]]).log().repeat(3, 1)
    loss = distribution_focal_loss(logits, torch.tensor([1.9, 0.0, 7.0]))
    wanted = [-0.1 * math.log(1 / 4) - 0.9 * math.log(5 / 8), -math.log(1 / 8), -math.log(5 / 8)]
    torch.testing.assert_close(loss, torch.tensor(wanted))
