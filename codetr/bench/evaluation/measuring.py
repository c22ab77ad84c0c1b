"""All files through every subject in turn, several times."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from codetr.bench.evaluation.subjects import Subject
from codetr.bench.step.recorder import Clock, Recorder


@dataclass(frozen=True)
class Result:
    """How long a subject takes for an image.

    mean: milliseconds of an image, of the median round. parts: of that round; they add up to it. rounds: milliseconds
    of an image in each round. detections: of all images.
    """

    name: str
    batch: int
    note: str
    mean: float
    parts: dict[str, float]
    rounds: tuple[float, ...]
    detections: int

    @property
    def images_per_second(self) -> float:
        return 1000 / self.mean

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "images_per_second": self.images_per_second}


def measure(subjects: Sequence[Subject], files: Sequence[Path], *, rounds: int, clock: Clock) -> list[Result]:
    """Time `rounds` runs of each subject over all files, taking turns, after one that is not counted."""
    recorder = Recorder(clock)
    counts = [_run(subject, files, recorder) for subject in subjects]
    recorder.read()
    times: list[list[tuple[float, dict[str, float]]]] = [[] for _ in subjects]
    for number in range(rounds):
        turns = list(zip(subjects, times, strict=True))
        for subject, own in turns if number % 2 == 0 else turns[::-1]:  # so that nobody always comes first
            _run(subject, files, recorder)
            (step,) = recorder.read()
            own.append((step.total / len(files), {name: part / len(files) for name, part in step.parts.items()}))
    return [_result(subject, own, count) for subject, own, count in zip(subjects, times, counts, strict=True)]


def _run(subject: Subject, files: Sequence[Path], recorder: Recorder) -> int:
    with subject.instruments(recorder), recorder.step():
        return subject.detect(files, recorder)


def _result(subject: Subject, times: Sequence[tuple[float, dict[str, float]]], detections: int) -> Result:
    middle = statistics.median_low(total for total, _ in times)
    parts = next(parts for total, parts in times if total == middle)
    rounds = tuple(total for total, _ in times)
    return Result(subject.name, subject.batch, subject.note, middle, parts, rounds, detections)
