"""The plan: how a batch is divided, what is shown, and a dry run that starts nothing."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from test_distributed import SPEC, write_data

from codetr.engine.config import TrainConfig
from codetr.engine.dry_run import dry_run
from codetr.engine.memory import BatchShape, StepMemory
from codetr.engine.plan import eta_row, memory_rows, piece_size, room_for_run
from codetr.errors import UserError
from codetr.spec import load_spec

MEMORY = StepMemory(2**30, 2**30, 2 * 2**30, 0, 5 * 2**30, 2**20)


@pytest.mark.parametrize(
    ("batch", "accumulate", "ranks", "message"),
    [
        (6, 2, 2, "6 images cannot be divided among 2 ranks times train.accumulate=2; use 4 or 8, or another"),
        (16, 1, 64, "16 images cannot be divided among 64 ranks; use 64, or another multiple of 64"),
        (16, 3, 1, "16 images cannot be divided by train.accumulate=3; use 15 or 18, or another multiple of 3"),
    ],
)
def test_a_batch_that_cannot_be_divided(batch: int, accumulate: int, ranks: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        piece_size(TrainConfig(batch_size=batch, accumulate=accumulate), ranks)


def test_pieces() -> None:
    assert piece_size(TrainConfig(batch_size=24, accumulate=3), 4) == 2


def test_memory_is_shown_part_by_part() -> None:
    rows = memory_rows(MEMORY, BatchShape(2, 800, 1333, 9), TrainConfig(), ranks=4)
    assert rows == {
        "memory": "about 9.0 GB a rank for a batch of 2 x 800 x 1333: weights 1.0 GB, gradients 1.0 GB, AdamW 2.0 GB, "
        "activations 5.0 GB, batch 1 MB",
        "sharded": "about 6.0 GB a rank with train.parallel=fsdp",
        "checkpoint": "3.0 GB; up to 10.0 GB for the run",
    }
    alone = memory_rows(MEMORY, BatchShape(2, 800, 1333, 9), TrainConfig(), ranks=1)
    assert "sharded" not in alone
    sharded = memory_rows(MEMORY, BatchShape(2, 800, 1333, 9), TrainConfig(parallel="fsdp"), ranks=4)
    assert sharded["memory"].startswith("about 6.0 GB") and "sharded" not in sharded


def test_room_for_the_checkpoints() -> None:
    """Two that are kept and one being written, of 3 GB each, and the best weights; averaged ones if there will be."""
    assert room_for_run(MEMORY, TrainConfig()) == 10 * 2**30
    assert room_for_run(MEMORY, TrainConfig(keep_last=1, average_last=3)) == 8 * 2**30


def test_a_dry_run_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(SPEC)
    data = write_data(tmp_path / "data", (1, 2, 3, 1, 2, 3, 1, 2, 3))
    settings = ["train.batch_size=4", "train.lr_batch_size=16", "heads={atss: {}}", "train.ema={}", "train.epochs=2"]
    text = StringIO()
    spec = load_spec("tiny.yaml", [f"data={data}", *settings])
    dry_run(spec, ranks=4, console=Console(file=text, width=400))
    rows = dict(line.split("  ", 1) for line in text.getvalue().splitlines() if not line.startswith("warning: "))
    rows = {name: value.strip() for name, value in rows.items()}
    assert rows["classes"] == "2: cat, dog" and rows["heads"] == "atss"
    assert rows["steps"] == "2 epochs x 2 = 4"
    assert rows["batch"] == "4 = 1 image x 4 ranks"
    assert rows["lr"].startswith("5e-05 (0.0002 for 16 images")
    assert rows["lr by part"].startswith("5e-05 for ") and "5e-06 for " in rows["lr by part"]
    assert rows["device"] == "4 processes on CPUs, fp32"
    assert "for a batch of 1 x 128 x 128" in rows["memory"] and "average" in rows["memory"]
    assert "checkpoint" in rows and "sharded" in rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "tiny.yaml"]
    with pytest.raises(UserError, match="use 3 or 6"):
        dry_run(spec, ranks=3, console=Console(file=text))


def test_the_time_that_is_left() -> None:
    assert eta_row(7200, 0.5) == {"ETA": "at most about 1:00:00, without evaluations"}
    assert eta_row(7200, None) == {"ETA": "told by the log after the first steps"}
