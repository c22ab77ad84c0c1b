"""One progress bar for the whole run; plain lines where the output is not a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class TrainingProgress:
    """Shows where a run is. quiet: show nothing (ranks other than the first)."""

    def __init__(self, console: Console, *, epochs: int, quiet: bool = False) -> None:
        self._console, self._epochs, self._quiet, self._total = console, epochs, quiet, 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", figures="")

    @contextmanager
    def running(self, *, total: int, start: int) -> Iterator[None]:
        """Show the bar. total, start: steps to reach, and those already done."""
        self._total = total
        self._bar.update(self._task, total=total, completed=start)
        with self._bar:
            yield

    def stage(self, name: str) -> None:
        """Say what is going on beside training."""
        self._bar.update(self._task, description=name)

    def counter(self, name: str, *, total: int) -> Callable[[int], None]:
        """A stage in which `total` images are gone through; call the result with each number of images done."""
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.stage(f"{name} {done}/{total}")

        return advance

    def advance(self, step: int) -> None:
        self._bar.update(self._task, completed=step)

    def show(self, record: Mapping[str, Any]) -> None:
        """Show a record of the log: on the bar, or as a line of its own."""
        figures, epoch = self._figures(record), f"epoch {record['epoch']}/{self._epochs}"
        self._bar.update(self._task, description=epoch, figures=figures)
        if not self._console.is_terminal:
            self.say(f"{epoch}  step {record['step']}/{self._total}  {figures}")

    def say(self, line: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _figures(self, record: Mapping[str, Any]) -> str:
        left = timedelta(seconds=round(record["seconds_per_step"] * (self._total - record["step"])))
        return (
            f"loss {record['loss']:.3f}  lr {record['lr']:.2g}  {record['images_per_second']:.1f} images/s  "
            f"ETA {left}  {record['memory_mb'] / 1024:.1f} GB"
        )
