"""Which classes each picture of a long-tailed synthetic set shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from codetr.data.sampling_config import LongTail
from codetr.data.scene_looks import Look, looks

_COMMONEST = 0.5  # share of the pictures that show the commonest class, at most
_AGAIN = 0.25  # share of objects that have a further one of their class beside them


def classes_of(tail: LongTail) -> list[Look]:
    """The classes by contiguous label: in the order of their names, as LVIS has them, which says nothing of how
    common they are."""
    return sorted(looks(tail.classes), key=lambda look: look.name)


def plan(tail: LongTail, *, pictures: int, objects: tuple[int, int], split: int, seed: int) -> list[list[int]]:
    """The labels of the objects of each picture, a label once for each object.

    split: 0 train, 1 val. A class is as common in one split as in the other, but for the least numbers of each.
    """
    rng = np.random.default_rng([seed, split, 0, 0])
    mean = sum(objects) / 2.0
    places = max(1, round(pictures * mean * (1.0 - _AGAIN)))
    counts = _counts(tail, pictures, places, least=tail.val_least if split else tail.least)
    # The same order for both splits.
    order = np.random.default_rng([seed, 0, 0, 1]).permutation(tail.classes)
    shown: list[list[int]] = [[] for _ in range(pictures)]
    load = np.zeros(pictures)
    for label, count in reversed(list(zip(order.tolist(), counts, strict=True))):
        for index in _emptiest(rng, load, count, mean):
            again = int(rng.geometric(1.0 - _AGAIN))
            shown[index] += [label] * again
            load[index] += again
    return shown


def _counts(tail: LongTail, pictures: int, places: int, *, least: int) -> list[int]:
    """How many pictures show the class of each rank: Zipf's law between the commonest share and the least number.

    With more classes than places the last ones have none.
    """
    share = np.arange(1, tail.classes + 1, dtype=float) ** -tail.exponent
    most = max(1, int(_COMMONEST * pictures))
    low, high = 0.0, float(places) / share[-1]
    for _ in range(60):  # the factor that uses up the places, by bisection
        middle = (low + high) / 2.0
        low, high = (middle, high) if _clipped(middle * share, least, most).sum() <= places else (low, middle)
    counts = _clipped(low * share, least, most)
    return np.where(np.cumsum(counts) <= max(places, most), counts, 0).tolist()


def _clipped(counts: NDArray[np.float64], least: int, most: int) -> NDArray[np.int64]:
    return np.clip(np.round(counts), min(least, most), most).astype(np.int64)


def _emptiest(rng: Generator, load: NDArray[np.float64], count: int, mean: float) -> Sequence[int]:
    """So many pictures, mostly those with the fewest objects so far."""
    order: list[int] = np.argsort(load + rng.uniform(0.0, mean, len(load)), kind="stable").tolist()
    return order[:count]
