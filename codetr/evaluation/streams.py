"""Detections that come image by image: matched as they come where the evaluator can, kept until the end otherwise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np

from codetr.evaluation.evaluators import Evaluator, Rules, curves_of
from codetr.evaluation.figures import Curves
from codetr.evaluation.lvis_rules import FIXED_LIMIT, best_of_each
from codetr.evaluation.packing import pack, unpack
from codetr.evaluation.results import Results
from codetr.evaluation.truth import GroundTruth

PRUNED_AT = 1_000_000
"""Detections above which those that fixed AP does not count are thrown away, whenever there are twice as many."""


class Stream(ABC):
    """What one rank adds; the states of all ranks make the curves."""

    def __init__(self) -> None:
        self._seen: dict[int, None] = {}

    def add(self, image_id: int, results: Results) -> None:
        """The detections of one image. An image that comes again is left out: samplers repeat some.

        Raises:
            UserError: the ground truth has no such image or class.
        """
        if image_id not in self._seen:
            self._take(image_id, results)
            self._seen[image_id] = None

    def state(self) -> bytes:
        """The images and what is known of them, for any process of the same versions."""
        seen = np.array([len(self._seen), *self._seen], dtype=np.int64)
        return seen.tobytes() + self._content()

    @abstractmethod
    def curves(self, states: Sequence[bytes]) -> Curves:
        """Curves of all images of several states, the same in whatever order images came and however they are divided.

        An image of several states counts as in the first; one of none counts as an image without detections.
        """

    @abstractmethod
    def _take(self, image_id: int, results: Results) -> None: ...

    @abstractmethod
    def _content(self) -> bytes: ...


def divided(state: bytes) -> tuple[list[int], memoryview]:
    """The ids of the images that a state has, and the rest of it."""
    count = int(np.frombuffer(state, np.int64, 1)[0])
    return np.frombuffer(state, np.int64, count, 8).tolist(), memoryview(state)[8 + 8 * count :]


class KeptDetections(Stream):
    """Packed detections, about 60 bytes each and the code of a mask, until all of them are there.

    limit: the best so many of each class are enough, over the whole data set.
    """

    def __init__(
        self,
        truth: GroundTruth | None = None,
        *,
        evaluator: Evaluator | None = None,
        rules: Rules | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        self._truth, self._evaluator, self._rules = truth, evaluator, rules or Rules()
        self._limit = FIXED_LIMIT if limit is None and self._rules.fixed else limit
        self._parts: list[bytes] = []
        self._count, self._pruned_at = 0, PRUNED_AT

    def results(self) -> Iterator[Results]:
        """What was kept, in portions, each image in one of them."""
        return map(unpack, self._parts)

    def curves(self, states: Sequence[bytes]) -> Curves:
        assert self._truth is not None
        seen: set[int] = set()
        parts: list[Results] = []
        for state in states:
            images, content = divided(state)
            results = unpack(content)
            repeated = np.isin(results.image_ids, [image for image in images if image in seen])
            parts.append(results.take(np.flatnonzero(~repeated)))
            seen.update(images)
        # In order of images, as one process has them: equal scores are ranked by where they stand.
        joined = in_order(Results.joined([part for part in parts if len(part)]))
        return curves_of(self._truth, joined, evaluator=self._evaluator, rules=self._rules)

    def _take(self, image_id: int, results: Results) -> None:
        self._parts.append(pack(results))
        self._count += len(results)
        if self._limit is not None and self._count > self._pruned_at:
            self._prune(self._limit)

    def _content(self) -> bytes:
        if self._limit is not None:
            self._prune(self._limit)
        return pack(Results.joined([part for part in self.results() if len(part)]))

    def _prune(self, limit: int) -> None:
        joined = in_order(Results.joined([part for part in self.results() if len(part)]))
        classes = np.unique(joined.category_ids, return_inverse=True)[1].astype(np.int64)
        kept = joined.take(np.flatnonzero(best_of_each(classes, joined.scores, limit)))
        self._parts, self._count = [pack(kept)], len(kept)
        self._pruned_at = max(PRUNED_AT, 2 * self._count)


def in_order(results: Results) -> Results:
    """The same, in ascending order of images; within an image as they are."""
    return results.take(np.argsort(results.image_ids, kind="stable"))
