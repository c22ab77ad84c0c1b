"""The share of a training step that is matching, assignment and suppression."""

from __future__ import annotations

import pytest
import torch
from codetr_kernels import backend

from codetr.bench.assignment import step
from codetr.losses import set_loss

CPU = torch.device("cpu")


def test_references_run_inside_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_chosen", lambda *arguments: True)
    x = torch.zeros(1)
    assert backend.runs_triton(x)
    with step.references():
        assert not backend.runs_triton(x)
    assert backend.runs_triton(x)


def test_shares_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    small = step._batch(1, (64, 96), 3, CPU)
    monkeypatch.setattr(step, "_batch", lambda *arguments: small)
    match = set_loss.hungarian_match
    before, after = step.measure_shares(CPU, steps=1)
    assert (before.form, after.form) == ("references", "kernels")
    for found in (before, after):
        assert list(found.parts) == ["matching", "assignment", "suppression"]
        assert all(0 < value < found.step for value in found.parts.values())
        assert 0 < found.share < 1
        assert found.as_dict()["share"] == found.share
    assert set_loss.hungarian_match is match
    assert step.describe([before])[0].startswith("references: step ")


def test_the_share_is_that_of_all_parts() -> None:
    found = step.Share("kernels", 10.0, {"matching": 2.0, "assignment": 0.5, "suppression": 0.0})
    assert found.share == 0.25
    assert step.describe([found]) == [
        "kernels: step 10.0 ms; matching 2.00 ms, assignment 0.50 ms, suppression 0.00 ms; together 25.0 %"
    ]
