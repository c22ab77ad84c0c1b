"""The evaluator interface, and the choice between the libraries behind it."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import ClassVar, Literal

from codetr.errors import UserError
from codetr.evaluation.figures import CocoFigures, Curves, Figures, LvisFigures, coco_figures, lvis_figures
from codetr.evaluation.lvis_rules import FIXED_LIMIT, judged
from codetr.evaluation.results import IouType, Results
from codetr.evaluation.truth import Floats, GroundTruth

EVALUATORS = ("hotcoco", "pycocotools")
"""The default first, then what stands in for it."""
Protocol = Literal["coco", "lvis"]
DEFAULT_LIMITS: dict[Protocol, int] = {"coco": 100, "lvis": 300}


@dataclass(frozen=True)
class Rules:
    """What is counted.

    max_detections: None for the protocol's own, 100 (COCO) or 300 (LVIS). COCO counts the best of an image and class,
    LVIS those of an image over all classes.
    class_agnostic: a detection may match an object of any class (`useCats = 0`); COCO only.
    protocol: `lvis` takes part of the classes in each image for annotated (federated), and reports frequency groups.
    fixed: LVIS only, fixed AP (arXiv 2102.01066): no limit in an image, `FIXED_LIMIT` of a class over the data set.

    Raises:
        UserError: settings that exclude each other.
    """

    iou_type: IouType = "bbox"
    max_detections: int | None = None
    class_agnostic: bool = False
    protocol: Protocol = "coco"
    fixed: bool = False

    def __post_init__(self) -> None:
        if self.fixed and self.protocol != "lvis":
            raise UserError("Fixed AP is defined for LVIS's rules, and these are COCO's. Leave out --fixed-ap.")
        if self.fixed and self.max_detections is not None:
            raise UserError(
                "Fixed AP has no limit of detections in an image. Leave out --max-detections or --fixed-ap."
            )
        if self.class_agnostic and self.protocol == "lvis":
            raise UserError("LVIS images are annotated class by class, so LVIS is not scored class-agnostically.")

    @property
    def limit(self) -> int | None:
        """The number of detections counted, in an image and class (COCO) or in an image (LVIS); None for fixed AP."""
        if self.fixed:
            return None
        return DEFAULT_LIMITS[self.protocol] if self.max_detections is None else self.max_detections

    @property
    def kind(self) -> type[Figures]:
        """Of the figures that they lead to."""
        return LvisFigures if self.protocol == "lvis" else CocoFigures

    @property
    def limits(self) -> tuple[int, ...]:
        """Detections of an image and class that are matched. COCO: for AR1, for AR10, and for every other figure."""
        limit = FIXED_LIMIT if self.limit is None else self.limit
        return (1, min(10, limit), limit) if self.protocol == "coco" else (limit,)


class Evaluator(ABC):
    """A library that matches detections with ground truth. An adapter defines one, and no figure of its own."""

    name: ClassVar[str]

    @abstractmethod
    def curves(self, truth: GroundTruth, results: Results, areas: Floats, rules: Rules) -> Curves:
        """Precision and recall by the matching of COCO, for each of `rules.limits`.

        areas: (N,) of the detections; an unmatched one whose area is outside of a range is ignored there.
        The class axis has length 1 if `rules.class_agnostic`.
        """


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
    truth: GroundTruth, results: Results, *, evaluator: Evaluator | None = None, rules: Rules | None = None
) -> Figures:
    """The figures of some detections, LVIS's if the rules are.

    Raises:
        UserError: a detection names an unknown image or category, masks are wanted and the ground truth has none, or
        LVIS's rules and the ground truth has not its fields.
    """
    rules = rules or Rules()
    return figures_of(curves_of(truth, results, evaluator=evaluator, rules=rules), truth, rules)


def curves_of(truth: GroundTruth, results: Results, *, evaluator: Evaluator | None = None, rules: Rules) -> Curves:
    """What the figures of `score` are made of. Raises: UserError as `score`."""
    require_scorable(truth, rules)
    results = _of_kind(results, rules.iou_type)
    evaluator, areas = evaluator or open_evaluator(), results.areas(truth)
    if rules.protocol == "lvis":
        truth, results, areas = judged(truth, results, areas, limit=None if rules.fixed else rules.limit)
    return evaluator.curves(truth, results, areas, rules)


def figures_of(curves: Curves, truth: GroundTruth, rules: Rules, *, classes: Sequence[int] | None = None) -> Figures:
    """Average the curves, over all classes or over some, given by their positions in `truth`."""
    if rules.class_agnostic:
        return coco_figures(curves, (), max_detections=rules.limit)
    chosen = list(range(len(truth.names)) if classes is None else classes)
    curves = Curves(curves.precision[:, :, chosen], curves.recall[:, chosen])
    names, objects = [truth.names[k] for k in chosen], truth.objects(crowds=rules.protocol == "lvis")
    counts = [objects[k] for k in chosen]
    if rules.protocol == "coco":
        return coco_figures(curves, names, objects=counts, max_detections=rules.limit)
    assert truth.federated is not None
    frequencies = [truth.federated.frequencies[k] for k in chosen]
    return lvis_figures(curves, names, frequencies=frequencies, objects=counts, max_detections=rules.limit)


def require_scorable(truth: GroundTruth, rules: Rules) -> None:
    """Check that the ground truth has what the rules need.

    Raises:
        UserError: masks are wanted and there are none, or LVIS's rules and there are not its fields.
    """
    if rules.protocol == "lvis" and truth.federated is None:
        raise UserError(
            f"{truth.file}: LVIS's rules need to know which classes each image was searched for, and no image has "
            "`neg_category_ids` and `not_exhaustive_category_ids`. Use an LVIS annotation file, or COCO's rules."
        )
    if rules.iou_type == "segm":
        truth.require_masks()


def _of_kind(results: Results, iou_type: IouType) -> Results:
    """Masks if they are to be scored, and no masks otherwise."""
    if iou_type == "bbox":
        return replace(results, segmentations=None)
    if results.segmentations is None and len(results):
        raise UserError(f"{results.file}: the detections have no masks. Use --iou-type bbox to score the boxes.")
    return replace(results, segmentations=results.segmentations or ())
