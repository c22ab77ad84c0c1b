"""metrics.csv: the records of metrics.jsonl as a table, for programs that read tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from codetr.engine.files import write_text

Record = Mapping[str, Any]


def flattened(record: Record) -> dict[str, Any]:
    """A record without the mappings in it: `{"losses": {"atss.cls": 1}}` is `{"losses.atss.cls": 1}`."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": entry for key, entry in value.items()}
        else:
            flat[name] = value
    return flat


class MetricsTable:
    """One row a record, one column a name, in the order in which names turn up; a cell is empty where there is none.

    A record with a name that has no column yet has the table written anew from all records, which happens about as
    often as there are kinds of records. So has the first record of a process: another one may have left half a row.
    records: all that the table is to hold, the one being appended among them.
    """

    def __init__(self, path: Path, records: Callable[[], Iterable[Record]]) -> None:
        self.path, self._records = path, records
        self._columns: list[str] = []

    def append(self, record: Record) -> None:
        row = flattened(record)
        if not row.keys() <= set(self._columns):
            return self.rebuild()
        with self.path.open("a", encoding="utf-8", newline="") as file:
            _writer(file, self._columns).writerow(row)

    def expire(self) -> None:
        """Rows may be missing or cut off: the next one has the table written anew."""
        self._columns = []

    def rebuild(self) -> None:
        """Write the whole table, in one move."""
        self.expire()
        rows = [flattened(record) for record in self._records()]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO(newline="")
        writer = _writer(text, columns)
        if rows:
            writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())
        self._columns = columns


def _writer(file: TextIO, columns: list[str]) -> csv.DictWriter[str]:
    return csv.DictWriter(file, columns, restval="", lineterminator="\n")
