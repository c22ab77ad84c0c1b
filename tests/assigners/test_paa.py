"""Probabilistic anchor assignment."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from codetr.assigners.contract import Priors
from codetr.assigners.paa import PAAAssigner
from codetr.structures import Targets

MakeTargets = Callable[..., Targets]
MakePriors = Callable[..., Priors]

# IoU with the object (0, 0, 10, 10): 1, 0.8, 0.5, 0.2, 0.05, 0.
PRIORS = torch.tensor([[0.0, 0, 10, height] for height in (10, 8, 5, 2, 0.5)] + [[50.0, 50, 60, 60]])


def test_offered_are_overlapping_priors(make_targets: MakeTargets, make_priors: MakePriors) -> None:
    targets = make_targets([[0.0, 0, 10, 10]], [[55.0, 55, 95, 95]])
    index = PAAAssigner().assign(make_priors(PRIORS, images=2), targets)
    # The best prior of the second object is offered although its IoU is 25 / 1675.
    assert index.tolist() == [[0, 0, 0, 0, -1, -1], [-1] * 5 + [0]]


def test_kept_are_those_of_low_loss(make_targets: MakeTargets, make_priors: MakePriors) -> None:
    assigner, priors, targets = PAAAssigner(), make_priors(PRIORS), make_targets([[0.0, 0, 10, 10]])
    losses = torch.tensor([[3.0, 0.2, 3.1, 0.2, 0.0, 0.0]])
    kept = assigner.keep(assigner.assign(priors, targets), losses, priors, targets)
    assert kept.tolist() == [[-1, 0, -1, 0, -1, -1]]


def test_an_ignored_prior_stays_ignored(make_targets: MakeTargets, make_priors: MakePriors) -> None:
    priors, targets = make_priors(PRIORS), make_targets([[0.0, 0, 10, 10]])
    index = torch.tensor([[-2, 0, 0, 0, -1, -2]])
    losses = torch.tensor([[0.0, 0.1, 0.1, 5.0, 0.0, 0.0]], requires_grad=True)
    kept = PAAAssigner().keep(index, losses, priors, targets)
    assert kept.tolist() == [[-2, 0, 0, -1, -1, -2]] and not kept.requires_grad


def test_no_objects(make_targets: MakeTargets, make_priors: MakePriors) -> None:
    assigner, priors, targets = PAAAssigner(), make_priors(PRIORS, images=2), make_targets([], [])
    index = assigner.assign(priors, targets)
    assert torch.equal(assigner.keep(index, torch.rand(2, 6), priors, targets), index) and (index == -1).all()


def test_equals_scikit_learn(make_targets: MakeTargets, make_priors: MakePriors) -> None:
    """Where it is installed: its mixture, started as in the paper's code, and the paper's separation."""
    mixture = pytest.importorskip("sklearn.mixture")
    priors, targets = make_priors(torch.zeros(40, 4), level_sizes=(40,)), make_targets([[0.0, 0, 10, 10]])
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        bad = torch.rand(40, generator=generator) < 0.6
        losses = torch.where(bad, 2.0, 0.5) + torch.rand(40, generator=generator)
        kept = PAAAssigner(topk=40).keep(torch.zeros(1, 40, dtype=torch.long), losses[None], priors, targets)
        assert (kept[0] == 0).tolist() == separated(mixture, losses).tolist(), seed


def separated(mixture: object, losses: Tensor) -> Tensor:
    x = losses.sort().values.double().numpy()[:, None]
    fitted = mixture.GaussianMixture(  # type: ignore[attr-defined]
        2,
        covariance_type="diag",
        weights_init=[0.5, 0.5],
        means_init=[[x.min()], [x.max()]],
        precisions_init=[[1.0], [1.0]],
    ).fit(x)
    foreground = torch.from_numpy(fitted.predict(x) == 0)
    score = torch.from_numpy(fitted.score_samples(x)).masked_fill(~foreground, -torch.inf)
    limit = x[int(score.argmax()), 0]
    kept = foreground & (torch.from_numpy(x[:, 0]) <= limit)
    return kept[losses.argsort().argsort()]
