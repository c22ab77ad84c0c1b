"""The loader's speed by a clock that is told the time, and the processes that would keep up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import ToyLoader, toy_batch

from codetr.engine.loader_speed import WINDOW, loader_speed, speed_line, workers_needed
from codetr.structures import Batch


class Timed(ToyLoader):
    """Each batch of two images takes a quarter of a second, the first one two seconds."""

    now, given = 0.0, 0

    def __iter__(self) -> Iterator[Batch]:
        for index in range(self.batches):
            self.now += 0.25 if index else 2.0
            self.given += 1
            yield toy_batch(self.epoch, index)


def test_images_a_second_after_the_first_batch() -> None:
    loader = Timed(100)
    loader.set_epoch(3, 7)
    assert loader_speed(loader, clock=lambda: loader.now) == 8.0
    assert loader.given == 1 + WINDOW / 0.25  # and then it is enough
    assert (loader.epoch, loader.start) == (0, 0)


@pytest.mark.parametrize(("batches", "speed"), [(3, 8.0), (1, None), (0, None)])
def test_short_epochs(batches: int, speed: float | None) -> None:
    loader = Timed(batches)
    assert loader_speed(loader, clock=lambda: loader.now) == speed


@pytest.mark.parametrize(
    ("workers", "step", "line"),
    [
        (2, None, "about 20 images/s with 2 loader processes"),
        (0, None, "about 20 images/s"),
        (2, 0.4, "about 20 images/s with 2 loader processes; training takes up to 20"),
        (2, 0.125, "about 20 images/s with 2 loader processes; training takes up to 64: data.workers=7 would keep up"),
        (0, 0.125, "about 20 images/s; training takes up to 64: data.workers=4 would keep up"),
    ],
)
def test_what_is_said(workers: int, step: float | None, line: str) -> None:
    assert speed_line(20.0, workers=workers, step=step, images=8) == line


@pytest.mark.parametrize(
    ("workers", "waiting", "expected"),
    [(4, 0.0, 4), (4, 0.5, 8), (4, 0.75, 16), (0, 0.5, 1), (0, 0.75, 3), (0, 0.1, 1), (2, 1.0, 2000)],
)
def test_workers_that_keep_up(workers: int, waiting: float, expected: int) -> None:
    """Steps of one second. Two processes that feed half of the steps' time must become four."""
    assert workers_needed(workers=workers, data_seconds=waiting, seconds_per_step=1.0) == expected
