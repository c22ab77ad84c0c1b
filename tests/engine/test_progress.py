"""What a training run shows: lines where there is no terminal, a bar where there is one."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console

from codetr.engine.progress import TrainingProgress, conflict_line

RECORD: dict[str, Any] = {
    "kind": "train",
    "epoch": 1,
    "step": 20,
    "lr": 2e-4,
    "loss": 3.25,
    "images_per_second": 4.0,
    "seconds_per_step": 0.5,
    "data_seconds": 0.1,
    "memory_mb": 1536.0,
}
MEASURED = {
    **RECORD,
    "encoder_gradients": {"detr": 0.314, "faster_rcnn": 0.125, "atss": 0.22},
    "encoder_cosines": {"detr.faster_rcnn": -0.034, "detr.atss": 0.12, "faster_rcnn.atss": 0.4},
}
INTO_ENCODER = (
    "into encoder: detr 0.31  faster_rcnn 0.12 (cos -0.03)  atss 0.22 (cos +0.12)  faster_rcnn with atss: cos +0.40"
)


def shown(*records: dict[str, Any], quiet: bool = False) -> list[str]:
    printed = StringIO()
    progress = TrainingProgress(Console(file=printed, width=80), epochs=12, quiet=quiet)
    with progress.running(total=100, start=0):
        for record in records:
            progress.show(record)
    return printed.getvalue().splitlines()


def test_a_record_is_a_line() -> None:
    assert shown(RECORD) == ["epoch 1/12  step 20/100  loss 3.250  lr 0.0002  4.0 images/s  ETA 0:00:40  1.5 GB"]


def test_measured_gradients_are_a_line_of_their_own() -> None:
    assert shown(RECORD, MEASURED, RECORD)[1:3] == [
        "epoch 1/12  step 20/100  loss 3.250  lr 0.0002  4.0 images/s  ETA 0:00:40  1.5 GB",
        f"  {INTO_ENCODER}",
    ]
    assert len(shown(RECORD, MEASURED, RECORD)) == 4


def test_a_branch_without_a_gradient_has_no_cosine() -> None:
    record = {"encoder_gradients": {"detr": 1.0, "atss": 0.0}}
    assert conflict_line(record) == "into encoder: detr 1  atss 0"
    assert conflict_line({"encoder_gradients": {"detr": 1.0}, "encoder_cosines": {}}) == "into encoder: detr 1"
    assert conflict_line(RECORD) is None


def test_ranks_other_than_the_first_are_quiet() -> None:
    assert shown(MEASURED, {**RECORD, "data_seconds": 0.4}, quiet=True) == []


def test_slow_data_are_noticed_once_and_not_by_the_first_line() -> None:
    slow = {**RECORD, "data_seconds": 0.2}
    notice = (
        "waiting for data: 40% of the time, so images are read more slowly than they are trained on. "
        "data.workers=1 would keep up, now it is 0, if there are as many idle CPU cores."
    )
    assert shown(slow, RECORD, RECORD).count(notice) == 0  # 20 % are not more than 20 %
    lines = shown(slow, slow, slow)
    assert lines.index(notice) == 2 and lines.count(notice) == 1


def test_on_a_terminal_the_newest_measurement_stays_below_the_bar() -> None:
    printed = StringIO()
    console = Console(file=printed, width=150, force_terminal=True, color_system=None)
    progress = TrainingProgress(console, epochs=12)
    with progress.running(total=100, start=0):
        progress.show(MEASURED)
        progress.show(RECORD)
        progress.advance(60)
    lines = printed.getvalue().splitlines()
    last_bar = next(line for line in reversed(lines) if "60/100" in line)
    assert "epoch 1/12" in last_bar
    below = lines[lines.index(last_bar) + 1 :]
    assert below[0].startswith("loss 3.250  lr 0.0002") and below[1].startswith(INTO_ENCODER)
    assert "step 20/100" not in printed.getvalue()
