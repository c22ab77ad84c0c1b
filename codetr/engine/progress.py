"""One progress bar for the whole run; plain lines where the output is not a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from codetr.engine.loader_speed import workers_needed

SLOW_DATA = 0.2
"""Share of a step's time from which on waiting for data is worth a word."""


class TrainingProgress:
    """Shows where a run is. quiet: show nothing (ranks other than the first). workers: loader processes of a rank."""

    workers = 0

    def __init__(self, console: Console, *, epochs: int, quiet: bool = False) -> None:
        self._console, self._epochs, self._quiet, self._total = console, epochs, quiet, 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
        )
        self._task = self._bar.add_task("starting")
        self._figures, self._conflict = Text(), Text()  # below the bar
        self._lines, self._warned = 0, False

    @contextmanager
    def running(self, *, total: int, start: int) -> Iterator[None]:
        """Show the bar. total, start: steps to reach, and those already done."""
        self._total = total
        self._bar.update(self._task, total=total, completed=start)
        hidden = self._quiet or not self._console.is_terminal
        with nullcontext() if hidden else Live(get_renderable=self._rendered, console=self._console):
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
        epoch, conflict = f"epoch {record['epoch']}/{self._epochs}", conflict_line(record)
        figures = _figures_line(record, steps_left=self._total - record["step"])
        self._bar.update(self._task, description=epoch)
        self._figures.plain, self._conflict.plain = figures, conflict or self._conflict.plain
        if not self._console.is_terminal:
            self.say(f"{epoch}  step {record['step']}/{self._total}  {figures}")
            if conflict is not None:
                self.say(f"  {conflict}")
        self._warn_of_slow_data(record)

    def _warn_of_slow_data(self, record: Mapping[str, Any]) -> None:
        """Once, and not by the first line, in which the loader starts."""
        self._lines += 1
        share = record["data_seconds"] / record["seconds_per_step"]
        if self._lines == 1 or self._warned or share <= SLOW_DATA:
            return
        self._warned = True
        needed = workers_needed(
            workers=self.workers, data_seconds=record["data_seconds"], seconds_per_step=record["seconds_per_step"]
        )
        self.say(
            f"waiting for data: {share:.0%} of the time, so images are read more slowly than they are trained on. "
            f"data.workers={needed} would keep up, now it is {self.workers}, if there are as many idle CPU cores."
        )

    def _rendered(self) -> Group:
        return Group(self._bar, *(line for line in (self._figures, self._conflict) if line))

    def say(self, line: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _figures_line(record: Mapping[str, Any], *, steps_left: int) -> str:
    left = timedelta(seconds=round(record["seconds_per_step"] * steps_left))
    return (
        f"loss {record['loss']:.3f}  lr {record['lr']:.2g}  {record['images_per_second']:.1f} images/s  "
        f"ETA {left}  {record['memory_mb'] / 1024:.1f} GB"
    )


def conflict_line(record: Mapping[str, Any]) -> str | None:
    """Norms of the gradients that the branches send into the encoder, and their cosines, if a record has them."""
    norms: Mapping[str, float] = record.get("encoder_gradients", {})
    if not norms:
        return None
    cosines: Mapping[str, float] = record.get("encoder_cosines", {})
    first, *heads = norms
    parts = [f"{first} {norms[first]:.2g}"]
    for head in heads:
        pair = f"{first}.{head}"
        parts.append(f"{head} {norms[head]:.2g}" + (f" (cos {cosines[pair]:+.2f})" if pair in cosines else ""))
    others = {pair: value for pair, value in cosines.items() if not pair.startswith(f"{first}.")}
    parts += [f"{pair.replace('.', ' with ')}: cos {value:+.2f}" for pair, value in others.items()]
    return "into encoder: " + "  ".join(parts)
