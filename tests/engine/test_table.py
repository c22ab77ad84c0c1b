"""metrics.csv: whole after new columns, half a row, and a record that is gone."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from codetr.engine import table
from codetr.engine.table import MetricsTable, flattened

FIRST = {"kind": "train", "step": 1, "losses": {"atss.cls": 0.5}}
SECOND = {"kind": "train", "step": 2, "losses": {"atss.cls": 0.25}}
OTHER = {"kind": "eval", "step": 2, "AP": 0.1}


class Log:
    """Records in memory, with their table."""

    def __init__(self, path: Path) -> None:
        self.records: list[dict[str, Any]] = []
        self.reads = 0
        self.table = MetricsTable(path, self.read)

    def read(self) -> list[dict[str, Any]]:
        self.reads += 1
        return self.records

    def append(self, *records: dict[str, Any]) -> None:
        for record in records:
            self.records.append(record)
            self.table.append(record)


def steps(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [row["step"] for row in csv.DictReader(file)]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "metrics.csv")


def test_mappings_become_columns() -> None:
    assert flattened(FIRST) == {"kind": "train", "step": 1, "losses.atss.cls": 0.5}


def test_rows_and_a_new_column(log: Log) -> None:
    log.append(FIRST, SECOND)
    assert log.table.path.read_text() == "kind,step,losses.atss.cls\ntrain,1,0.5\ntrain,2,0.25\n"
    log.append(OTHER, SECOND)
    assert log.table.path.read_text() == (
        "kind,step,losses.atss.cls,AP\ntrain,1,0.5,\ntrain,2,0.25,\neval,2,,0.1\ntrain,2,0.25,\n"
    )


def test_all_records_are_read_for_new_columns_only(log: Log) -> None:
    log.append(*[FIRST] * 50, OTHER, *[SECOND, OTHER] * 50)
    assert log.reads == 2
    assert len(log.table.path.read_text().splitlines()) == 1 + 151


def test_half_a_row_of_a_killed_process_is_mended(log: Log) -> None:
    log.append(FIRST)
    with log.table.path.open("a") as file:
        file.write("train,2,0.")
    again = Log(log.table.path)
    again.records = [FIRST]
    again.append(SECOND)
    assert again.table.path.read_text() == "kind,step,losses.atss.cls\ntrain,1,0.5\ntrain,2,0.25\n"


def test_a_table_that_could_not_be_written_is_left_as_it_was(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append(FIRST)
    before = log.table.path.read_text()

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        log.append(OTHER)
    assert log.table.path.read_text() == before
    monkeypatch.undo()
    log.append(SECOND)
    assert steps(log.table.path) == ["1", "2", "2"]


def test_an_expired_table_is_written_anew(log: Log) -> None:
    log.append(FIRST)
    log.records.append(SECOND)  # a row that did not come through
    log.table.expire()
    log.append(SECOND)
    assert steps(log.table.path) == ["1", "2", "2"]


def test_without_records_the_table_is_empty(log: Log) -> None:
    log.append(FIRST)
    log.records.clear()
    log.table.rebuild()
    assert log.table.path.read_text() == ""
    log.append(SECOND)
    assert log.table.path.read_text() == "kind,step,losses.atss.cls\ntrain,2,0.25\n"
