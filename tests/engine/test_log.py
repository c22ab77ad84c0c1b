"""metrics.jsonl, and the means between two of its lines."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from codetr.engine.log import MetricsLog, Window, peak_memory
from codetr.engine.report import Report
from codetr.errors import UserError


def test_records_come_back_and_a_line_cut_off_is_left_out(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.read() == []
    log.append({"kind": "train", "step": 1, "loss": 0.1})
    log.append({"kind": "eval", "step": 2, "AP": 0.5})
    with log.path.open("a") as file:
        file.write('{"kind": "tr')
    assert log.read() == [{"kind": "train", "step": 1, "loss": 0.1}, {"kind": "eval", "step": 2, "AP": 0.5}]
    log.truncate(1)
    assert log.path.read_text() == '{"kind": "train", "step": 1, "loss": 0.1}\n'
    log.truncate(0)
    assert log.path.read_text() == ""


def test_a_record_holds_means_over_its_steps() -> None:
    window = Window()
    window.add(Report(3, 0.1, {"a": 1.0, "b": 2.0}, 4.0, False), images=2)
    window.add(Report(4, 0.2, {"a": 3.0, "b": 2.0}, 6.0, False), images=2)
    record = window.record(epoch=1, device=torch.device("cpu"))
    kept = {key: record[key] for key in ("kind", "epoch", "step", "lr", "loss", "grad_norm", "losses")}
    assert kept == {
        "kind": "train",
        "epoch": 1,
        "step": 4,
        "lr": 0.2,
        "loss": 4.0,
        "grad_norm": 5.0,
        "losses": {"a": 2.0, "b": 2.0},
    }
    assert record["images_per_second"] * record["seconds_per_step"] == pytest.approx(2.0)
    window.restart()
    assert len(window) == 0


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def report(step: int, **figures: float) -> Report:
    return Report(step, 0.1, {"a": 1.0}, 4.0, False, {name.replace("_", "."): value for name, value in figures.items()})


def test_waiting_for_data_and_time_aside() -> None:
    """Two steps of 4 s, of which 1 s is waiting; 10 s of saving are nobody's."""
    clock = Clock()
    window = Window(clock)
    clock.wait(100.0)
    window.restart()

    def loader() -> Any:
        for item in ("a", "b"):
            clock.wait(1.0)
            yield item
        clock.wait(50.0)

    items = window.waiting(loader())
    for step in (1, 2):
        assert next(items) == "ab"[step - 1]
        clock.wait(3.0)
        window.add(report(step), images=2)
        with window.aside():
            clock.wait(5.0)
    record = window.record(epoch=1, device=torch.device("cpu"))
    assert (record["seconds_per_step"], record["data_seconds"], record["images_per_second"]) == (4.0, 1.0, 0.5)
    assert list(items) == []
    window.restart()
    window.add(report(3), images=2)
    clock.wait(2.0)
    record = window.record(epoch=1, device=torch.device("cpu"))
    assert (record["seconds_per_step"], record["data_seconds"]) == (2.0, 0.0)


def test_figures_are_means_over_the_steps_that_have_them() -> None:
    """Squared norms 25 and 7, mean 16; 4 and 4; products 8 and 0, mean 4, over the norms 4 and 2."""
    window = Window()
    window.add(report(1, positives_atss_found=3.0), images=2)
    window.add(report(2, positives_atss_found=5.0, products_detr_detr=25.0, products_detr_atss=8.0), images=2)
    window.add(report(3, positives_atss_found=7.0, products_detr_detr=7.0, products_detr_atss=0.0), images=2)
    window._reports[1].figures["products.atss.atss"] = window._reports[2].figures["products.atss.atss"] = 4.0  # type: ignore[index]
    record = window.record(epoch=1, device=torch.device("cpu"))
    assert record["positives"] == {"atss.found": 5.0}
    assert record["encoder_gradients"] == {"detr": 4.0, "atss": 2.0}
    assert record["encoder_cosines"] == {"detr.atss": 0.5}
    window.restart()
    window.add(report(4), images=2)
    assert not {"positives", "encoder_gradients", "encoder_cosines"} & set(
        window.record(epoch=1, device=torch.device("cpu"))
    )


class Events:
    """Stands for event files."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def add(self, record: Any) -> None:
        self.calls.append(record["step"])

    def forget_after(self, step: int) -> None:
        self.calls.append(f"forget after {step}")


def test_the_table_and_the_events_follow_the_log(tmp_path: Path) -> None:
    events: Any = Events()
    log = MetricsLog(tmp_path / "metrics.jsonl", events=events)
    for step in (1, 2, 3):
        log.append({"kind": "train", "step": step, "losses": {"atss.cls": step / 2}})
    log.truncate(2)
    log.append({"kind": "eval", "step": 2, "AP": 0.5})
    assert (tmp_path / "metrics.csv").read_text() == (
        "kind,step,losses.atss.cls,AP\ntrain,1,0.5,\ntrain,2,1.0,\neval,2,,0.5\n"
    )
    assert events.calls == [1, 2, 3, "forget after 2", 2]


def test_after_a_full_disk_the_table_has_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    log = MetricsLog(tmp_path / "metrics.jsonl", say=said.append)
    log.append({"kind": "train", "step": 1})

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log, "_write_lines", full)
    log.append({"kind": "train", "step": 2})
    monkeypatch.undo()
    log.append({"kind": "train", "step": 3})
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [1, 2, 3]
    assert log.table.path.read_text() == "kind,step\ntrain,1\ntrain,2\ntrain,3\n"
    assert len(said) == 1


def test_lines_that_are_lost_end_the_run_unless_something_worse_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", say=lambda line: None)

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log, "_write_lines", full)
    log.append({"kind": "train", "step": 1})
    log.append({"kind": "train", "step": 2})
    with pytest.raises(UserError) as caught:
        log.close()
    assert str(caught.value) == (
        f"{log.path}: the last 2 lines could not be written: No space left on device. Make room, and go on with "
        "--resume from an earlier checkpoint to have them."
    )
    with pytest.raises(RuntimeError, match="worse"):
        try:
            raise RuntimeError("worse")
        finally:
            log.close()


def test_memory_of_this_process() -> None:
    assert 10 * 2**20 < peak_memory(torch.device("cpu")) < 2**40  # more than 10 MB, and in bytes
