"""Images per second, in rounds in which every reader has its turn, and the stages of one image."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from codetr.bench.data.readers import BASELINE, Reader, Subject
from codetr.data.coco import CocoDataset, Sample
from codetr.data.collate import collate
from codetr.data.config import DataConfig
from codetr.data.images import decode
from codetr.data.transforms import build_transform


@dataclass(frozen=True)
class Rate:
    """images_per_second, first_batch (seconds until there is one): the median, least and most of all rounds."""

    name: str
    images_per_second: tuple[float, float, float]
    first_batch: tuple[float, float, float]


@dataclass(frozen=True)
class Stage:
    """Milliseconds of an image in one process, the median of all."""

    name: str
    milliseconds: float


def measure_readers(
    subjects: Sequence[Subject],
    *,
    images: int,
    rounds: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Rate]:
    """images: how many are counted of each in a round, after a first epoch that is not."""
    seen: dict[str, list[tuple[float, float]]] = {subject.name: [] for subject in subjects}
    for number in range(rounds):
        for place, subject in enumerate(subjects):
            seen[subject.name].append(_turn(subject.make(), images))
            gc.collect()
            progress(number * len(subjects) + place + 1, rounds * len(subjects))
    return [
        Rate(name, _middle([rate for rate, _ in turns]), _middle([first for _, first in turns]))
        for name, turns in seen.items()
    ]


def _turn(reader: Reader, images: int) -> tuple[float, float]:
    start = time.perf_counter()
    first = 0.0
    for _ in reader.epoch(0):
        first = first or time.perf_counter() - start
    done, epoch = 0, 1
    start = time.perf_counter()
    while done < images:  # whole epochs, so that nothing that was loaded ahead is given away
        done += sum(reader.epoch(epoch))
        epoch += 1
    return done / (time.perf_counter() - start), first


def _middle(values: Sequence[float]) -> tuple[float, float, float]:
    return statistics.median(values), min(values), max(values)


def relative(rates: Sequence[Rate]) -> dict[str, float]:
    """Rate over that of codetr on files."""
    base = next(rate for rate in rates if rate.name == BASELINE).images_per_second[0]
    return {rate.name: rate.images_per_second[0] / base for rate in rates}


def measure_stages(dataset: CocoDataset, config: DataConfig, *, batch_size: int, images: int) -> list[Stage]:
    """Where the time of an image goes, without other processes."""
    transform = build_transform(config, "train")
    times: dict[str, list[float]] = {"read": [], "decode": [], "sample": [], "augment": [], "collate": []}

    def timed(name: str, call: Callable[[], Any], share: int = 1) -> Any:
        start = time.perf_counter()
        found = call()
        times[name].append(1000 * (time.perf_counter() - start) / share)
        return found

    batch: list[Sample] = []
    for number in range(images):
        row = number % len(dataset)
        info = dataset.infos[row]
        content = timed("read", partial(dataset.read, info))
        timed("decode", partial(decode, content, Path(info.file)))
        sample = timed("sample", partial(dataset.__getitem__, row))
        others = [sample] * transform.companions(number)
        batch.append(timed("augment", partial(transform, sample, others, seed=number)))
        if len(batch) == batch_size:
            timed("collate", partial(collate, batch, pad_multiple=config.pad_multiple), batch_size)
            batch = []
    medians = {name: statistics.median(values) for name, values in times.items() if values}
    medians["sample"] -= medians["read"] + medians["decode"]
    return [Stage(name, value) for name, value in medians.items()]
