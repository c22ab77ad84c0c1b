"""Labels and boxes of assigned ground truths."""

from __future__ import annotations

import torch

from codetr.assigners.contract import Priors, matched
from codetr.structures import Targets


def test_matched() -> None:
    boxes = torch.tensor([[[1.0, 1, 2, 2], [3, 3, 4, 4]], [[5, 5, 6, 6], [0, 0, 0, 0]]])
    valid = torch.tensor([[True, True], [True, False]])
    targets = Targets(boxes, torch.tensor([[4, 2], [1, 0]]), valid, (2, 1))
    labels, goals = matched(torch.tensor([[1, 0, -1], [-2, 0, -1]]), targets, background=7)
    assert labels.tolist() == [[2, 4, 7], [7, 1, 7]]
    assert goals[0].tolist() == [[3, 3, 4, 4], [1, 1, 2, 2], [0, 0, 0, 0]]
    assert goals[1].tolist() == [[0, 0, 0, 0], [5, 5, 6, 6], [0, 0, 0, 0]]


def test_shared_priors_of_images() -> None:
    priors = Priors(torch.rand(3, 4), torch.ones(2, 3, dtype=torch.bool), (3,))
    assert torch.equal(priors.of_images()[1], priors.boxes)
