"""From detections that come image by image, on one rank or several, to figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from codetr.evaluation.evaluators import Evaluator, Rules, figures_of, open_evaluator
from codetr.evaluation.figures import Curves, Figures
from codetr.evaluation.gather import from_leader, is_distributed, to_leader
from codetr.evaluation.results import IouType, Results
from codetr.evaluation.streams import KeptDetections, Stream
from codetr.evaluation.truth import GroundTruth


def open_stream(evaluator: Evaluator, truth: GroundTruth, rules: Rules) -> Stream:
    """One that matches images as they come, where the evaluator has it and the rules allow it."""
    if evaluator.name == "hotcoco":
        from codetr.evaluation import hotcoco_stream

        if hotcoco_stream.takes(rules):
            return hotcoco_stream.MatchedImages(truth, rules)
    return KeptDetections(truth, evaluator=evaluator, rules=rules)


class Scorer:
    """Figures of what all ranks add, by one set of rules.

    With several ranks, rank 0 gets the states of all, and each rank its figures. `figures` is to be called by every
    rank, and only once.
    """

    def __init__(self, truth: GroundTruth, rules: Rules | None = None, *, evaluator: Evaluator | None = None) -> None:
        self._truth, self.rules = truth, rules or Rules()
        self._stream = open_stream(evaluator or open_evaluator(), truth, self.rules)

    def add(self, image_id: int, results: Results) -> None:
        """The detections of one image; one that comes again, on this rank or another, counts once.

        Raises:
            UserError: the ground truth has no such image or class.
        """
        self._stream.add(image_id, results)

    def figures(self, *, classes: Sequence[int] | None = None) -> tuple[Figures, ...]:
        """The figures over all classes, and then those over some, given by their positions in the ground truth.

        Raises:
            UserError: as `codetr.evaluation.evaluators.score`.
            RuntimeError: on the other ranks, if rank 0 raised.
        """
        sets = (None,) if classes is None else (None, classes)
        if not is_distributed():
            return self._of(self._stream.curves([self._stream.state()]), sets)
        states = to_leader(self._stream.state())
        names = [self._names(chosen) for chosen in sets]
        lengths = [self.rules.kind.count_numbers(len(own)) for own in names]

        def compute() -> list[float]:
            return [value for one in self._of(self._stream.curves(states), sets) for value in one.numbers()]

        numbers = from_leader(compute, sum(lengths))
        found = []
        for own, length in zip(names, lengths, strict=True):
            head, numbers = numbers[:length], numbers[length:]
            found.append(self.rules.kind.from_numbers(head, own, max_detections=self.rules.limit))
        return tuple(found)

    def _of(self, curves: Curves, sets: Sequence[Sequence[int] | None]) -> tuple[Figures, ...]:
        return tuple(figures_of(curves, self._truth, self.rules, classes=chosen) for chosen in sets)

    def _names(self, classes: Sequence[int] | None) -> list[str]:
        if self.rules.class_agnostic:
            return []
        names = self._truth.names
        return list(names) if classes is None else [names[position] for position in classes]


Take = Callable[[int, Results], None]
"""What is done with an image's id and its detections."""


def score_all(scorers: Sequence[Scorer]) -> dict[IouType, Figures]:
    """The figures of scorers by what they score, over all classes."""
    return {scorer.rules.iou_type: scorer.figures()[0] for scorer in scorers}
