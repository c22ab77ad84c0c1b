"""The log of a run: metrics.jsonl, one JSON object for each line of it and for each evaluation, and its copies.

metrics.jsonl is the truth, from which a resumed run goes on; metrics.csv and event files repeat it.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from codetr.engine.conflict import norms_and_cosines
from codetr.engine.event_files import EventFiles
from codetr.engine.files import write_text
from codetr.engine.report import Report
from codetr.engine.table import MetricsTable
from codetr.errors import UserError

Record = Mapping[str, Any]
Item = TypeVar("Item")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class MetricsLog:
    """Append-only records. `kind` is `train` (means over the steps since the last one) or `eval`.

    A value is a number, or a mapping from names to numbers. The table lies beside `path`; events: None for none.
    """

    def __init__(
        self, path: Path, *, events: EventFiles | None = None, say: Callable[[str], None] | None = None
    ) -> None:
        self.path, self.events, self._say = path, events, say
        self.table = MetricsTable(path.with_suffix(".csv"), self.read)
        self._unwritten = ""

    def append(self, record: Record) -> None:
        """Write a record; if the disk is full, keep it for the next time and say so, since training can go on."""
        self._unwritten += json.dumps(record) + "\n"
        try:
            self._write_lines()
            self.table.append(record)
            if self.events is not None:
                self.events.add(record)
        except OSError as error:
            self.table.expire()
            if self._say is None or error.errno not in NO_ROOM:
                raise
            self._say(f"warning: {self.path} cannot be written: {error.strerror}. Its lines are kept. Make room.")

    def _write_lines(self) -> None:
        """All lines that are not written yet, or none of them."""
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(self._unwritten)
        except OSError:
            if self.path.exists():
                os.truncate(self.path, size)
            raise
        self._unwritten = ""

    def close(self) -> None:
        """Write what could not be written before, and end the event files.

        Raises: UserError if there still is no room, unless another error is on its way.
        """
        if self._unwritten:
            self._write_rest()
        if self.events is not None:
            self.events.close()

    def _write_rest(self) -> None:
        failed = sys.exc_info()[0] is not None
        try:
            self._write_lines()
            self.table.rebuild()
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            if not failed:
                raise UserError(
                    f"{self.path}: the last {self._unwritten.count(chr(10))} lines could not be written: "
                    f"{error.strerror}. Make room, and go on with --resume from an earlier checkpoint to have them."
                ) from error

    def read(self) -> list[dict[str, Any]]:
        """All whole records; a last line that was cut off in writing is left out."""
        if not self.path.exists():
            return [json.loads(line) for line in self._unwritten.splitlines()]
        lines = self.path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in (*lines[:-1], *self._unwritten.splitlines())]

    def truncate(self, step: int) -> None:
        """Forget everything after a step: the run goes on from there."""
        kept = [record for record in self.read() if record["step"] <= step]
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))
        self.table.rebuild()
        if self.events is not None:
            self.events.forget_after(step)


class Window:
    """Means over the steps since the last line of the log. clock: seconds, from any start."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Forget everything and start the clock."""
        self._reports: list[Report] = []
        self._images = 0
        self._aside = self._waited = 0.0
        self._start = self._clock()

    def __len__(self) -> int:
        return len(self._reports)

    def add(self, report: Report, *, images: int) -> None:
        """images: of the step, over all ranks."""
        self._reports.append(report)
        self._images += images

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Time that is not the steps': of an evaluation, or of saving."""
        start = self._clock()
        try:
            yield
        finally:
            self._aside += self._clock() - start

    def waiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; the time until each of them is there counts as waiting for data."""
        iterator = iter(items)
        while True:
            start = self._clock()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._waited += self._clock() - start
            yield item

    def record(self, *, epoch: int, device: torch.device) -> dict[str, Any]:
        """A record of the log. epoch: 1 for the first."""
        count, last = len(self), self._reports[-1]
        seconds = max(self._clock() - self._start - self._aside, 1e-9)
        losses = {name: sum(report.losses[name] for report in self._reports) / count for name in last.losses}
        return {
            "kind": "train",
            "epoch": epoch,
            "step": last.step,
            "lr": last.lr,
            "loss": sum(losses.values()),
            "grad_norm": sum(report.grad_norm for report in self._reports) / count,
            "images_per_second": self._images / seconds,
            "seconds_per_step": seconds / count,
            "data_seconds": self._waited / count,
            "memory_mb": peak_memory(device) / 2**20,
            "losses": losses,
            **self._figures(),
        }

    def _figures(self) -> dict[str, dict[str, float]]:
        """Means over the steps that measured them."""
        values: dict[str, dict[str, list[float]]] = {"positives": {}, "products": {}}
        for report in self._reports:
            for name, value in report.figures.items():
                kind, _, rest = name.partition(".")
                values[kind].setdefault(rest, []).append(value)
        means = {
            kind: {name: sum(entries) / len(entries) for name, entries in of_kind.items()}
            for kind, of_kind in values.items()
        }
        norms, cosines = norms_and_cosines(means["products"])
        found = {"positives": means["positives"], "encoder_gradients": norms, "encoder_cosines": cosines}
        return {name: figures for name, figures in found.items() if figures}


def peak_memory(device: torch.device) -> int:
    """Largest memory so far, in bytes: allocated on a GPU, resident in this process on a CPU (0 on Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
