"""The watch over a step on fake tensors catches every way to ask the device that is known here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from no_host import HostAccess, fake_step
from small import ONE_STAGE, small_model
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from codetr.losses.set_loss import SetCriterion

ASKED = (HostAccess, DataDependentOutputException, DynamicOutputShapeException)
"""How a step fails that reads a number, moves a tensor, or has a shape that depends on numbers."""

FAULTS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "tolist": lambda x: x.tolist(),
    "float": lambda x: float(x.sum()),
    "a branch": lambda x: 1 if x.sum() > 0 else 2,
    "equal": lambda x: torch.equal(x, x + 1),
    "cpu": lambda x: x.cpu(),
    "to the host": lambda x: x.to("cpu", non_blocking=True),
    "from the host": lambda x: x + torch.zeros(3).to(x.device).sum(),
    "a tensor of host values": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "a boolean index": lambda x: x[x > 0],
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "repeats on the device": lambda x: torch.arange(3, device=x.device).repeat_interleave(x.flatten()[:3].long()),
    "bincount": lambda x: x.flatten().long().bincount(),
    "a slice up to a count": lambda x: x.flatten()[: x.argmax()],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_step_that_asks_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of the step: in the loss of a group, of its logits."""
    losses = SetCriterion.group
    asked: list[str] = []

    def group(self: SetCriterion, queries: Any, output: Any, *rest: Any) -> dict[str, Tensor]:
        asked.append(queries.name)
        FAULTS[fault](output.logits.detach())
        return losses(self, queries, output, *rest)

    monkeypatch.setattr(SetCriterion, "group", group)
    with pytest.raises(ASKED):
        fake_step(small_model(ONE_STAGE, {}))
    assert asked == ["match"]


@pytest.mark.parametrize("fault", ["item", "a branch", "nonzero", "a boolean index", "unique"])
def test_a_backward_pass_that_asks_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = SetCriterion.group
    asked: list[str] = []

    def ask(gradient: Tensor) -> None:
        asked.append(fault)
        FAULTS[fault](gradient)

    def group(self: SetCriterion, queries: Any, output: Any, *rest: Any) -> dict[str, Tensor]:
        output.logits.register_hook(ask)
        return losses(self, queries, output, *rest)

    monkeypatch.setattr(SetCriterion, "group", group)
    with pytest.raises(ASKED):
        fake_step(small_model(ONE_STAGE, {}), device="cpu", backward=True)
    assert asked == [fault]
