"""Every base, plain and with heads, trains on batches that are not like most: no objects, one, and far too many."""

from __future__ import annotations

import warnings

import pytest
import torch
from every_base import BASES, TINY, tiny_model
from small import NUM_CLASSES, batch
from torch import nn

from codetr.models.collaborative import Collaborative
from codetr.structures import Match

# An epoch: the objects of the two images of each step.
EPOCH = [(3, 1), (0, 0), (1, 0), (2, 5)]
CROWDED = (200, 0)


def step(model: Collaborative, optimizer: torch.optim.Optimizer, counts: tuple[int, int]) -> None:
    """One step of training, all of whose numbers are finite and which leaves no parameter out."""
    losses = model(*batch(counts))
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values()), losses
    optimizer.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    missed = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missed
    assert nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).isfinite()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


@pytest.mark.parametrize("heads", [False, True], ids=["plain", "heads"])
@pytest.mark.parametrize("base", BASES)
def test_an_epoch_with_any_number_of_objects(base: str, heads: bool) -> None:
    model = tiny_model(base, NUM_CLASSES, heads=heads).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for counts in EPOCH:
        step(model, optimizer, counts)
    with pytest.warns(RuntimeWarning, match=r"an image has 200 objects but the group 'match' has \d+ queries") as told:
        step(model, optimizer, CROWDED)
        step(model, optimizer, CROWDED)
    assert len(told) == 1
    for parameter in model.parameters():
        assert parameter.isfinite().all()
    found = model.eval().predict(batch()[0], max_detections=TINY.queries)
    assert all(detections.scores.isfinite().all() for detections in found)


@pytest.mark.parametrize("base", BASES)
def test_as_many_objects_as_queries_go_without_a_warning(base: str) -> None:
    model = tiny_model(base, NUM_CLASSES, heads=False).train()
    images, targets = batch()
    groups = model.base.propose(model.base.encode(images), targets).groups
    (count,) = {len(group) for group in groups if group.supervision == Match()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(*batch((count, 1)))
