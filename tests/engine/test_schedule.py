"""Learning-rate factors, written out."""

from __future__ import annotations

import math

import pytest

from codetr.engine.config import TrainConfig
from codetr.engine.schedule import Schedule


def test_a_milestone_of_11_leaves_11_epochs_at_full_rate() -> None:
    schedule = Schedule(TrainConfig(epochs=12, milestones=(11,)), steps_per_epoch=10)
    assert schedule.total_steps == 120
    assert [schedule.factor(step) for step in (0, 109, 110, 119)] == pytest.approx([1.0, 1.0, 0.1, 0.1])


def test_every_milestone_multiplies() -> None:
    schedule = Schedule(TrainConfig(epochs=3, milestones=(1, 2), decay=0.5), steps_per_epoch=2)
    assert [schedule.factor(step) for step in range(6)] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_warm_up_reaches_the_full_rate_with_its_last_step() -> None:
    schedule = Schedule(TrainConfig(epochs=2, milestones=(1,), warmup_steps=4), steps_per_epoch=5)
    assert [schedule.factor(step) for step in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 0.1])


def test_cosine_falls_to_zero_at_the_end() -> None:
    schedule = Schedule(TrainConfig(epochs=2, schedule="cosine"), steps_per_epoch=4)
    expected = [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(9)]
    assert [schedule.factor(step) for step in range(9)] == pytest.approx(expected)
    assert schedule.factor(0) == 1.0
    assert schedule.factor(4) == pytest.approx(0.5)
