"""metrics.jsonl: one JSON object for each line of the log and for each evaluation."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from codetr.engine.files import write_text
from codetr.engine.report import Report

Record = Mapping[str, Any]


class MetricsLog:
    """Append-only records. `kind` is `train` (means over the steps since the last one) or `eval`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Record) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All whole records; a last line that was cut off in writing is left out."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def truncate(self, step: int) -> None:
        """Forget everything after a step: the run goes on from there."""
        kept = [record for record in self.read() if record["step"] <= step]
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))


class Window:
    """Means over the steps since the last line of the log."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget everything and start the clock."""
        self._reports: list[Report] = []
        self._images = 0
        self._start = time.perf_counter()

    def __len__(self) -> int:
        return len(self._reports)

    def add(self, report: Report, *, images: int) -> None:
        """images: of the step, over all ranks."""
        self._reports.append(report)
        self._images += images

    def record(self, *, epoch: int, device: torch.device) -> dict[str, Any]:
        """A record of the log. epoch: 1 for the first."""
        count, last = len(self), self._reports[-1]
        seconds = max(time.perf_counter() - self._start, 1e-9)
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
            "memory_mb": peak_memory(device) / 2**20,
            "losses": losses,
        }


def peak_memory(device: torch.device) -> int:
    """Largest memory so far, in bytes: allocated on a GPU, resident in this process on a CPU (0 on Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
