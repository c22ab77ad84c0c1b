"""Learning-rate factors, written out."""

from __future__ import annotations

import math
from typing import Any

import pytest

from codetr.engine.config import TrainConfig
from codetr.engine.schedule import Schedule, lr_line, scaled_lr


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


def test_a_resumed_warm_up_goes_on_where_it_was() -> None:
    """A schedule made anew, as a resumed run makes it, gives the rates of the one that was never stopped."""
    config = TrainConfig(epochs=3, schedule="cosine", warmup_steps=7, lr=0.5, lr_batch_size=8, batch_size=16)
    whole = [Schedule(config, 4).lr(step) for step in range(12)]
    assert whole[:5] + [Schedule(config, 4).lr(step) for step in range(5, 12)] == whole
    assert whole[0] == pytest.approx(2 * 0.5 / 7)
    assert whole[5] == pytest.approx(2 * 0.5 * 6 / 7 * 0.5 * (1 + math.cos(math.pi * 5 / 12)))


@pytest.mark.parametrize(
    ("settings", "lr", "line"),
    [
        ({}, 2e-4, "0.0002"),
        ({"batch_size": 4}, 2e-4, "0.0002"),
        ({"batch_size": 4, "lr_batch_size": 16}, 5e-5, "5e-05 (0.0002 for 16 images, scaled in proportion)"),
        (
            {"batch_size": 4, "lr_batch_size": 16, "lr_scaling": "sqrt"},
            1e-4,
            "0.0001 (0.0002 for 16 images, scaled by the square root)",
        ),
        ({"batch_size": 16, "lr_batch_size": 16}, 2e-4, "0.0002"),
    ],
)
def test_the_rate_follows_the_batch(settings: dict[str, Any], lr: float, line: str) -> None:
    config = TrainConfig(lr=2e-4, **settings)
    assert scaled_lr(config) == pytest.approx(lr)
    assert lr_line(config) == line


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({}, ""),
        ({"epochs": 2}, ""),  # the milestone of the published recipe
        ({"schedule": "cosine"}, ""),
        ({"schedule": "cosine", "milestones": ()}, ""),
        ({"schedule": "cosine", "milestones": (3, 5)}, "train.milestones=[3, 5] has no effect with"),
        ({"epochs": 5, "milestones": (4, 5)}, "fall after epoch 5, but training ends with epoch 5"),
        ({"epochs": 5, "milestones": (4,)}, ""),
        ({"warmup_steps": 120}, ""),
        ({"warmup_steps": 121}, "training has 120 steps and never reaches the full rate"),
        ({"lr_scaling": "sqrt"}, "train.lr_scaling=sqrt has no effect without train.lr_batch_size"),
        ({"lr_scaling": "sqrt", "lr_batch_size": 8}, ""),
    ],
)
def test_settings_without_effect_are_noted(settings: dict[str, Any], note: str) -> None:
    notes = Schedule(TrainConfig(**{"epochs": 12, **settings}), steps_per_epoch=10).notes()
    assert len(notes) == bool(note)
    assert note in "".join(notes)
