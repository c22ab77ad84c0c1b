"""Where the time of a training step goes: marks between its parts, read when the steps are over."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

DATA, TRANSFER, BACKWARD, OPTIMIZER, AVERAGE = "data", "transfer", "backward", "clipping and optimizer", "EMA"
BACKBONE, ENCODER, PROPOSALS, DECODER = "backbone", "encoder", "proposals", "decoder"
SHARED, MATCHING, LOSSES, REST = "adapter, positive queries", "matching", "losses", "rest"

ORDER = (DATA, TRANSFER, BACKBONE, ENCODER, PROPOSALS, SHARED, DECODER, MATCHING, LOSSES, BACKWARD, OPTIMIZER, AVERAGE)
"""In which parts are listed; those of single heads come after `SHARED`, and the rest last."""


def head_part(name: str) -> str:
    """The part of a head: its towers, assignment, losses and positives."""
    return f"head {name}"


def in_order(parts: set[str]) -> list[str]:
    """Parts as a table lists them."""
    heads = sorted(parts - {*ORDER, REST})
    return [part for name in (*ORDER, REST) for part in [name, *(heads if name == SHARED else [])] if part in parts]


class Clock(Protocol):
    """Marks in time, which are read later."""

    def mark(self) -> Any: ...
    def wait(self) -> None: ...
    def milliseconds(self, start: Any, end: Any) -> float: ...


class HostClock:
    """The host's clock: on a CPU an operation is over when its call is."""

    def mark(self) -> float:
        return time.perf_counter()

    def wait(self) -> None:
        """Marks can be read at once."""

    def milliseconds(self, start: float, end: float) -> float:
        return 1000 * (end - start)


class DeviceClock:
    """Events on a GPU's stream, which ask nothing of it until `wait`.

    What is between two of them is the time that the GPU spends there, waiting for the host included.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def wait(self) -> None:
        torch.cuda.synchronize(self._device)

    def milliseconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return start.elapsed_time(end)


def clock_of(device: torch.device) -> Clock:
    """The clock of the work on a device."""
    return DeviceClock(device) if device.type == "cuda" else HostClock()


@dataclass(frozen=True)
class StepTimes:
    """Milliseconds of one step. parts: they add up to the total, `rest` being what belongs to no other."""

    total: float
    parts: dict[str, float]


class Recorder:
    """Marks where parts begin and end. A part inside another counts for itself alone."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._within: list[str] = []
        self._steps: list[list[tuple[str, Any]]] = []  # of each step: a mark, and the part that goes on from there

    @contextmanager
    def step(self) -> Iterator[None]:
        """The whole of a step."""
        self._steps.append([])
        with self.part(REST):
            yield

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the present step; one that comes several times is the sum."""
        self._within.append(name)
        self._mark()
        try:
            yield
        finally:
            self._within.pop()
            self._mark()

    def timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The function as a part of the step that it is called in."""

        def call(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return function(*arguments, **options)

        return call

    def forget(self) -> None:
        """Drop the steps so far."""
        self._steps.clear()

    def read(self) -> list[StepTimes]:
        """The steps since the last reading. Waits for the device."""
        self._clock.wait()
        times = [self._times(marks) for marks in self._steps]
        self.forget()
        return times

    def _mark(self) -> None:
        self._steps[-1].append((self._within[-1] if self._within else REST, self._clock.mark()))

    def _times(self, marks: list[tuple[str, Any]]) -> StepTimes:
        total = self._clock.milliseconds(marks[0][1], marks[-1][1])
        parts: dict[str, float] = {}
        for (name, start), (_, end) in itertools.pairwise(marks):
            if name != REST:
                parts[name] = parts.get(name, 0.0) + self._clock.milliseconds(start, end)
        return StepTimes(total, {**parts, REST: total - sum(parts.values())})
