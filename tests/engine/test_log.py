"""metrics.jsonl, and the means between two of its lines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from codetr.engine.log import MetricsLog, Window, peak_memory
from codetr.engine.report import Report


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


def test_memory_of_this_process() -> None:
    assert 10 * 2**20 < peak_memory(torch.device("cpu")) < 2**40  # more than 10 MB, and in bytes
