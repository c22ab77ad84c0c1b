"""The evaluator interface, and the choice between the libraries behind it."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import ClassVar

from codetr.errors import UserError
from codetr.evaluation.figures import CocoFigures, Curves, coco_figures
from codetr.evaluation.results import IouType, Results
from codetr.evaluation.truth import GroundTruth

EVALUATORS = ("hotcoco", "pycocotools")
"""The default first, then what stands in for it."""


@dataclass(frozen=True)
class CocoRules:
    """What is counted. class_agnostic: a detection may match an object of any class (`useCats = 0`)."""

    iou_type: IouType = "bbox"
    max_detections: int = 100
    class_agnostic: bool = False

    @property
    def limits(self) -> tuple[int, int, int]:
        """Detections counted in an image and class: for AR1, for AR10, and for every other figure."""
        return 1, min(10, self.max_detections), self.max_detections


class Evaluator(ABC):
    """A library that matches detections with ground truth. An adapter defines one, and no figure of its own."""

    name: ClassVar[str]

    @abstractmethod
    def coco_curves(self, truth: GroundTruth, results: Results, rules: CocoRules) -> Curves:
        """Precision and recall by the COCO rules; the class axis has length 1 if `rules.class_agnostic`."""


def open_evaluator(name: str = EVALUATORS[0], *, announce: Callable[[str], None] = warnings.warn) -> Evaluator:
    """The evaluator of that name; pycocotools, said aloud, where hotcoco is not installed.

    Raises:
        UserError: there is no evaluator of that name, or none can be imported.
    """
    if name not in EVALUATORS:
        raise UserError(f"There is no evaluator {name!r}. Choose one of {', '.join(EVALUATORS)}.")
    try:
        return _adapter(name)
    except ImportError as error:
        if name == EVALUATORS[-1]:
            raise UserError(f"{name} cannot be imported ({error}). Install it: pip install {name}") from error
        announce(
            f"{name} cannot be imported ({error}); evaluating with {EVALUATORS[-1]}, which gives the same figures more "
            f"slowly. To change that: pip install {name}"
        )
    return open_evaluator(EVALUATORS[-1], announce=announce)


def _adapter(name: str) -> Evaluator:
    evaluator: Evaluator = import_module(f"codetr.evaluation.{name}_adapter").Adapter()
    return evaluator


def score(
    truth: GroundTruth, results: Results, *, evaluator: Evaluator | None = None, rules: CocoRules | None = None
) -> CocoFigures:
    """The COCO figures of some detections.

    Raises:
        UserError: a detection names an unknown image or category, or masks are wanted and the ground truth has none.
    """
    rules = rules or CocoRules()
    if rules.iou_type == "segm":
        truth.require_masks()
        if results.segmentations is None and len(results):
            raise UserError(f"{results.file}: the detections have no masks. Use --iou-type bbox to score the boxes.")
        results = replace(results, segmentations=results.segmentations or ())
    else:
        results = replace(results, segmentations=None)
    curves = (evaluator or open_evaluator()).coco_curves(truth, results, rules)
    names = () if rules.class_agnostic else truth.names
    return coco_figures(curves, names, max_detections=rules.max_detections)
