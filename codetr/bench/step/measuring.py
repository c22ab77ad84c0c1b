"""Steps of every subject in turn, on the same batches."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from codetr.bench.step.batches import Source
from codetr.bench.step.recorder import Clock, Recorder, StepTimes
from codetr.bench.step.subjects import Subject
from codetr.bench.step.training import TrainingStep
from codetr.bench.timing import Times

BLOCK = 5
"""Steps of one subject before it is the next one's turn."""


@dataclass(frozen=True)
class Result:
    """How long a subject's steps take.

    parts: mean milliseconds, which add up to `mean`. images: of a step. parameters: trained ones. peak_memory: bytes
    that model, optimizer and steps take at most, beside what there was before.
    """

    name: str
    note: str
    images: int
    parameters: int
    mean: float
    parts: dict[str, float]
    times: Times
    peak_memory: int | None = None

    @property
    def images_per_second(self) -> float:
        return 1000 * self.images / self.mean

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        shares = {name: value / self.mean for name, value in self.parts.items()}
        return {**asdict(self), "shares": shares, "images_per_second": self.images_per_second}


def run(
    makers: Sequence[Callable[[], Subject]],
    source: Source,
    *,
    steps: int,
    warmup: int,
    clock: Clock,
    device: torch.device,
) -> list[Result]:
    """Measure `steps` steps of each subject after `warmup` ones, in blocks that take turns.

    The subjects take the same batches. Before each block a step is taken and not counted: it fills caches, and the
    loader has begun anew. On a GPU the peak memory of each is measured too, while it warms up.
    """
    recorder = Recorder(clock)
    started = [_start(make, source, recorder, warmup, device) for make in makers]
    times: list[list[StepTimes]] = [[] for _ in started]
    for number, (first, count) in enumerate(_blocks(steps)):
        turns = list(zip(started, times, strict=True))
        # Backwards every other time, so that nobody always comes first.
        for (training, _), own in turns if number % 2 == 0 else turns[::-1]:
            own += _block(training, source, recorder, first, count)
    return [
        replace(summarize(training.subject, own), peak_memory=peak)
        for (training, peak), own in zip(started, times, strict=True)
    ]


def summarize(subject: Subject, steps: Sequence[StepTimes]) -> Result:
    """Means, so that the parts add up; median and 95th percentile of the whole step show whether it was steady."""
    names = {name: None for step in steps for name in step.parts}
    totals = sorted(step.total for step in steps)
    return Result(
        name=subject.name,
        note=subject.note,
        images=subject.config.batch_size,
        parameters=sum(parameter.numel() for parameter in subject.model.parameters() if parameter.requires_grad),
        mean=statistics.fmean(totals),
        parts={name: statistics.fmean(step.parts.get(name, 0.0) for step in steps) for name in names},
        times=Times(statistics.median(totals), totals[round(0.95 * (len(totals) - 1))], len(totals)),
    )


def _start(
    make: Callable[[], Subject], source: Source, recorder: Recorder, warmup: int, device: torch.device
) -> tuple[TrainingStep, int | None]:
    """A subject that has warmed up, and its peak memory on a GPU."""
    before = 0
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    training = TrainingStep(make(), device)
    _block(training, source, recorder, 0, warmup - 1)
    if device.type != "cuda":
        return training, None
    return training, torch.cuda.max_memory_allocated(device) - before


def _block(training: TrainingStep, source: Source, recorder: Recorder, first: int, count: int) -> list[StepTimes]:
    batches = source.batches(first * training.subject.config.accumulate)
    with training.subject.instruments(recorder):
        training.run(batches, recorder)
        recorder.forget()
        for _ in range(count):
            training.run(batches, recorder)
    return recorder.read()


def _blocks(steps: int) -> Iterator[tuple[int, int]]:
    """First batch and number of counted steps of each block; one step more is taken before them."""
    first = 0
    while steps > 0:
        count = min(BLOCK, steps)
        yield first, count
        first, steps = first + count + 1, steps - count
