"""Whether training goes on, by lists of evaluations."""

from __future__ import annotations

from typing import Any

import pytest

from codetr.engine.config import EarlyStopping, TrainConfig
from codetr.engine.early_stopping import check_early_stopping, stop_reason
from codetr.errors import UserError


def records(*figures: float) -> list[dict[str, Any]]:
    """An evaluation after each epoch, with a line of training before it."""
    found: list[dict[str, Any]] = []
    for epoch, figure in enumerate(figures, start=1):
        found += [{"kind": "train", "epoch": epoch, "loss": 1.0}, {"kind": "eval", "epoch": epoch, "AP": figure}]
    return found


@pytest.mark.parametrize(
    ("figures", "patience", "min_delta", "stops"),
    [
        ((), 1, 0.0, False),
        ((0.1,), 1, 0.0, False),
        ((0.1, 0.1), 1, 0.0, True),
        ((0.1, 0.1), 2, 0.0, False),
        ((0.3, 0.2, 0.25), 2, 0.0, True),
        ((0.3, 0.2, 0.31), 2, 0.0, False),
        ((0.3, 0.2, 0.31, 0.2), 2, 0.0, False),  # counted anew after a better one
        ((0.1, 0.14, 0.18), 2, 0.05, False),  # slow, but by 0.08 since the best
        ((0.1, 0.12, 0.14), 2, 0.05, True),
        ((float("nan"), float("nan")), 2, 0.0, True),
        ((float("nan"), 0.0), 2, 0.0, False),
    ],
)
def test_when_training_stops(figures: tuple[float, ...], patience: int, min_delta: float, stops: bool) -> None:
    found = stop_reason(records(*figures), EarlyStopping(patience=patience, min_delta=min_delta))
    assert (found is not None) == stops


def test_the_reason_names_the_best() -> None:
    assert stop_reason(records(0.25, 0.5, 0.4, 0.5), EarlyStopping(patience=2)) == (
        "The last 2 evaluations have not raised the AP of 0.5000 of epoch 2 (train.early_stopping.patience=2)."
    )
    assert stop_reason(records(0.5, 0.505), EarlyStopping(patience=1, min_delta=0.01)) == (
        "The last evaluation has not raised the AP of 0.5000 of epoch 1 by more than 0.01 "
        "(train.early_stopping.patience=1)."
    )


@pytest.mark.parametrize("every", [None, 0])
def test_without_evaluations_there_is_nothing_to_decide_by(every: int | None) -> None:
    check_early_stopping(TrainConfig(eval_every=every))
    check_early_stopping(TrainConfig(eval_every=2, early_stopping=EarlyStopping()))
    with pytest.raises(UserError, match=r"train\.eval_every=(null|0) has none"):
        check_early_stopping(TrainConfig(eval_every=every, early_stopping=EarlyStopping()))
