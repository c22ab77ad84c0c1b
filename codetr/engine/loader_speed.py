"""How fast images come from the loader, and how many processes it would take to keep up with training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from codetr.structures import Batch

WINDOW = 1.5
"""Seconds of measuring, once the first batch is there."""


class Loader(Protocol):
    def set_epoch(self, epoch: int, start_batch: int = 0) -> None: ...
    def __iter__(self) -> Iterator[Batch]: ...


def loader_speed(loader: Loader, *, clock: Callable[[], float] = time.perf_counter) -> float | None:
    """Images a second of this rank, while nothing is trained; None if an epoch is a single batch.

    The batches are those of the first epoch, which are made again for training.
    """
    loader.set_epoch(0)
    start, images = None, 0
    for batch in loader:
        if start is None:  # the processes are started and have begun to work ahead
            start = clock()
            continue
        images += len(batch.infos)
        if clock() - start >= WINDOW:
            break
    loader.set_epoch(0)
    return None if start is None or images == 0 else images / max(clock() - start, 1e-9)


def speed_line(speed: float, *, workers: int, step: float | None, images: int) -> str:
    """For people. step: seconds that a training step computes, if known. images: of this rank in a step."""
    line = f"about {speed:.3g} images/s with {workers} loader processes" if workers else f"about {speed:.3g} images/s"
    if step is None:
        return line
    loading = images / speed
    trained = f"{line}; training takes up to {images / step:.3g}"
    if workers and loading <= step:
        return trained
    # With processes a step lasts as long as the slower of both, without them as long as both together.
    waits, lasts = (loading - step, loading) if workers else (loading, loading + step)
    needed = workers_needed(workers=workers, data_seconds=waits, seconds_per_step=lasts)
    return f"{trained}: data.workers={needed} would keep up"


def workers_needed(*, workers: int, data_seconds: float, seconds_per_step: float) -> int:
    """Loader processes with which a step would not wait. data_seconds: how long a step waits now, at most its time."""
    computing = max(seconds_per_step - data_seconds, 1e-3 * seconds_per_step)
    # Without processes of its own, loading takes all of the time that it waits; with them, all of the step.
    return max(1, math.ceil(data_seconds / computing if workers == 0 else workers * seconds_per_step / computing))
