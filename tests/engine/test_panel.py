"""What is said before the first step and after the last."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from codetr.engine.config import TrainConfig
from codetr.engine.distributed import World
from codetr.engine.panel import batch_line, listed, print_outcome, print_rows, schedule_line
from codetr.engine.trainer import Outcome


@pytest.mark.parametrize(
    ("ranks", "accumulate", "line"),
    [(1, 1, "16 images"), (8, 1, "16 = 2 images x 8 ranks"), (2, 4, "16 = 2 images x 2 ranks x 4 pieces")],
)
def test_batch(ranks: int, accumulate: int, line: str) -> None:
    config = TrainConfig(batch_size=16, accumulate=accumulate)
    assert batch_line(config, World(0, ranks, torch.device("cpu"))) == line


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({}, "0.0002, times 0.1 after epoch 11"),
        ({"epochs": 3}, "0.0002"),
        ({"schedule": "cosine", "warmup_steps": 5}, "0.0002, warm-up over 5 steps, cosine to 0"),
    ],
)
def test_schedule(settings: dict[str, object], line: str) -> None:
    assert schedule_line(TrainConfig(**settings)) == line


def test_many_classes_are_cut_short() -> None:
    assert listed(("a", "b")) == "a, b"
    assert listed(tuple("abcdefghij")) == "a, b, c, d, e, f, g, h, ..."


def test_names_from_data_are_not_markup() -> None:
    for terminal in (True, False):
        text = StringIO()
        console = Console(file=text, force_terminal=terminal, width=80, color_system=None)
        print_rows(console, "plan", {"classes": "[red]cat[/red]"})
        assert "[red]cat[/red]" in text.getvalue()


def test_an_interrupted_run_says_how_to_go_on() -> None:
    text = StringIO()
    outcome = Outcome(step=7, finished=False, figures={"AP": 0.25, "AP50": 0.5}, signal=2)
    print_outcome(Console(file=text), outcome, Path("runs/a b"))
    lines = [line.split(maxsplit=1) for line in text.getvalue().splitlines()]
    assert lines == [
        ["AP", "0.2500"],
        ["AP50", "0.5000"],
        ["run", "runs/a b"],
        ["stopped", "by signal 2 after step 7; everything is saved"],
        ["resume", "codetr train --resume 'runs/a b'"],
        ["evaluate", "codetr eval 'runs/a b'"],
        ["predict", "codetr predict IMAGE --checkpoint 'runs/a b'"],
    ]
