from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from codetr.engine.config import TrainConfig

if TYPE_CHECKING:
    from conftest import Toy


def test_figures_of_masks_and_frequency_groups_are_said_and_logged(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"AP": 0.25, "AP50": 0.5, "APs": 0.125, "APr": -1.0, "APc": 0.75, "segm/AP": 0.0625}
    monkeypatch.setattr(toy, "_evaluate", lambda model: figures)
    toy.train(TrainConfig(epochs=1, batch_size=2, milestones=(), eval_every=0, log_every=1))
    assert "AP 0.2500  AP50 0.5000  APr n/a  APc 0.7500  segm/AP 0.0625\n" in toy.printed.getvalue()
    records = [line for line in (toy.folder.path / "metrics.jsonl").read_text().splitlines() if '"eval"' in line]
    assert '"segm/AP": 0.0625' in records[0]
    assert '"APr": -1.0' in records[0]
