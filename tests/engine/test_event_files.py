"""Event files, read back with TensorBoard's own reader."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from codetr.engine.event_files import EventFiles, scalars
from codetr.errors import UserError


def record(step: int, loss: float) -> dict[str, Any]:
    return {"kind": "train", "epoch": 1, "step": step, "lr": 0.5, "losses": {"atss.cls": loss}, "none": None}


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_a_record_is_one_point_of_every_curve(tmp_path: Path) -> None:
    assert scalars(record(3, 2.0)) == {"train/lr": 0.5, "losses/atss.cls": 2.0}
    assert scalars({"kind": "eval", "epoch": 1, "step": 3, "AP": 0.25}) == {"eval/AP": 0.25}
    files = EventFiles(tmp_path / "events")
    assert not files.folder.exists()  # no file before the first record
    files.add(record(1, 4.0))
    files.add(record(2, 2.0))
    assert curve(files.folder, "losses/atss.cls") == [(1, 4.0), (2, 2.0)]  # on disk before the files are closed
    files.close()
    assert curve(files.folder, "train/lr") == [(1, 0.5), (2, 0.5)]


def test_a_resumed_run_repeats_no_step(tmp_path: Path) -> None:
    """Killed at step 4, resumed from step 2, and so once more from step 3."""
    killed = EventFiles(tmp_path)
    for step in (1, 2, 3, 4):
        killed.add(record(step, 1.0))
    resumed = EventFiles(tmp_path)
    resumed.forget_after(2)
    for step in (3, 4):
        resumed.add(record(step, 2.0))
    assert curve(tmp_path, "losses/atss.cls") == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]
    resumed.forget_after(3)
    resumed.add(record(4, 4.0))
    resumed.add(record(5, 4.0))
    killed.close()
    resumed.close()
    assert curve(tmp_path, "losses/atss.cls") == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 4.0), (5, 4.0)]


def test_after_a_failure_a_new_file_keeps_all_that_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = EventFiles(tmp_path)
    files.forget_after(0)
    files.add(record(1, 1.0))

    def full() -> None:
        raise OSError(28, "No space left on device")

    assert files._writer is not None
    monkeypatch.setattr(files._writer, "flush", full)
    writer = files._writer
    with pytest.raises(OSError, match="No space"):
        files.add(record(2, 1.0))
    monkeypatch.undo()
    writer.close()
    files.add(record(3, 1.0))
    files.close()
    assert [step for step, _ in curve(tmp_path, "losses/atss.cls")] == [1, 2, 3]


def test_without_tensorboard_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"train.tensorboard needs TensorBoard: pip install 'codetr\[log\]'"):
        EventFiles(tmp_path)
