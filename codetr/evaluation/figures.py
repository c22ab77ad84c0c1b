"""From precision and recall to the figures that papers report."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from codetr.evaluation.truth import Floats

if TYPE_CHECKING:
    from typing_extensions import Self

UNDEFINED = -1.0
"""The value of a figure over no ground truth, e.g. APs where no object is small."""
AREAS = ("", "s", "m", "l")
"""Suffixes of figures, in the order in which curves hold the areas."""


@dataclass(frozen=True)
class Curves:
    """What every evaluator computes.

    precision: (T, R, K, A, M), at IoU 0.50:0.05:0.95, recall 0:0.01:1, each class, area (all, small, medium, large) and
    number of detections, ascending. recall: (T, K, A, M), the highest reached. Both -1 where undefined.
    """

    precision: Floats
    recall: Floats


@dataclass(frozen=True)
class ClassFigures:
    """The figures of one class, as `Figures` has them of all. objects: those that are to be found."""

    AP: float
    AP50: float
    APs: float
    APm: float
    APl: float
    AR: float
    objects: int


CLASS_NAMES = tuple(ClassFigures.__dataclass_fields__)


@dataclass(frozen=True, kw_only=True)
class Figures(ABC):
    """Figures of all classes together, each in (0, 1), or `UNDEFINED`.

    AP: mean over IoU 0.50:0.95 and classes; AP50, AP75 at one IoU; APs, APm, APl: objects below 32^2, up to 96^2, and
    above, in square pixels.
    by_class: those of each class by its name; empty if classes were not told apart.
    max_detections: how many were counted; None for fixed AP, which has no limit in an image.
    """

    names: ClassVar[tuple[str, ...]]
    """Of the fields that hold figures, in the order in which they are shown."""

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    by_class: Mapping[str, ClassFigures]
    max_detections: int | None

    @property
    def per_class(self) -> dict[str, float]:
        """AP of each class by its name."""
        return {name: figures.AP for name, figures in self.by_class.items()}

    def as_dict(self) -> dict[str, float]:
        """The figures of all classes by their public names."""
        return {self.public_name(name): getattr(self, name) for name in self.names}

    def public_name(self, name: str) -> str:
        """The name to show for a field."""
        raise NotImplementedError

    def numbers(self) -> list[float]:
        """All figures, of `count_numbers` entries."""
        rows = (asdict(figures).values() for figures in self.by_class.values())
        return [*(getattr(self, name) for name in self.names), *(float(value) for value in chain(*rows))]

    @classmethod
    def count_numbers(cls, num_classes: int) -> int:
        """How many figures there are with so many classes."""
        return len(cls.names) + num_classes * len(CLASS_NAMES)

    @classmethod
    def from_numbers(cls, numbers: Sequence[float], classes: Sequence[str], *, max_detections: int | None) -> Self:
        """The inverse of `numbers`."""
        own = dict(zip(cls.names, numbers, strict=False))
        rows = np.array(numbers[len(cls.names) :]).reshape(len(classes), len(CLASS_NAMES)).tolist()
        by_class = {
            name: ClassFigures(**dict(zip(CLASS_NAMES, [*values, int(objects)], strict=True)))
            for name, (*values, objects) in zip(classes, rows, strict=True)
        }
        return cls(**own, by_class=by_class, max_detections=max_detections)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class CocoFigures(Figures):
    """The twelve COCO figures.

    AR1, AR10: recall with at most so many detections in an image and class.
    AR100, ARs, ARm, ARl: with at most `max_detections`, which is 100 unless set.
    """

    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")

    AR1: float
    AR10: float
    AR100: float
    ARs: float
    ARm: float
    ARl: float
    max_detections: int | None = 100

    def public_name(self, name: str) -> str:
        """With another limit than 100, `AR100` is called `AR`."""
        return "AR" if name == "AR100" and self.max_detections != 100 else name


@dataclass(frozen=True, kw_only=True)
class LvisFigures(Figures):
    """The thirteen LVIS figures.

    APr, APc, APf: AP of rare, common and frequent classes, by the file's `frequency`.
    AR, ARs, ARm, ARl: recall with at most `max_detections` in an image, over all classes; 300 unless set. Fixed AP
    has the same names.
    """

    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR", "ARs", "ARm", "ARl")

    APr: float
    APc: float
    APf: float
    AR: float
    ARs: float
    ARm: float
    ARl: float
    max_detections: int | None = 300

    def public_name(self, name: str) -> str:
        """Recall says its limit, e.g. `ARs@300`."""
        return f"{name}@{self.max_detections or 300}" if name.startswith("AR") else name


def coco_figures(
    curves: Curves, classes: Sequence[str], *, objects: Iterable[int] = (), max_detections: int | None = 100
) -> CocoFigures:
    """Average the curves, whose numbers of detections are 1, 10 and `max_detections`.

    classes: names of the K classes, or () if they were not told apart. objects: how many each has.
    """
    recall = _recall(curves)
    return CocoFigures(
        **_precisions(curves),
        AR1=_mean(curves.recall[..., 0, 0]),
        AR10=_mean(curves.recall[..., 0, 1]),
        AR100=recall.pop("AR"),
        **recall,
        by_class=_by_class(curves, classes, objects),
        max_detections=max_detections,
    )


def lvis_figures(
    curves: Curves,
    classes: Sequence[str],
    *,
    frequencies: Sequence[str],
    objects: Iterable[int],
    max_detections: int | None = 300,
) -> LvisFigures:
    """Average the curves. frequencies: `r`, `c` or `f` of each of the K classes."""
    groups = np.array(frequencies)
    return LvisFigures(
        **_precisions(curves),
        **{f"AP{group}": _mean(curves.precision[:, :, groups == group, 0, -1]) for group in "rcf"},
        **_recall(curves),
        by_class=_by_class(curves, classes, objects),
        max_detections=max_detections,
    )


def _precisions(curves: Curves) -> dict[str, float]:
    """The figures of average precision that all protocols have."""
    precision = curves.precision[..., -1]
    iou_50, iou_75 = 0, 5
    at_one_iou = {"AP50": _mean(precision[iou_50, ..., 0]), "AP75": _mean(precision[iou_75, ..., 0])}
    return {f"AP{area}": _mean(precision[..., index]) for index, area in enumerate(AREAS)} | at_one_iou


def _recall(curves: Curves) -> dict[str, float]:
    return {f"AR{area}": _mean(curves.recall[..., index, -1]) for index, area in enumerate(AREAS)}


def _by_class(curves: Curves, classes: Sequence[str], objects: Iterable[int]) -> dict[str, ClassFigures]:
    if not classes:
        return {}
    areas = _means(curves.precision[..., -1], axis=(0, 1))  # (K, A)
    at_50 = _means(curves.precision[0, ..., 0, -1], axis=0)
    recall = _means(curves.recall[..., 0, -1], axis=0)
    counts = list(objects) or [0] * len(classes)
    columns = (areas[:, 0], at_50, areas[:, 1], areas[:, 2], areas[:, 3], recall)
    rows = zip(*(column.tolist() for column in columns), counts, strict=True)
    return {name: ClassFigures(*row) for name, row in zip(classes, rows, strict=True)}


def _mean(values: Floats) -> float:
    """Mean of what is defined."""
    defined = values[values > UNDEFINED]
    return float(np.mean(defined)) if defined.size else UNDEFINED


def _means(values: Floats, axis: Any) -> Floats:
    """The same along axes on which all values are defined, or none."""
    means: Floats = values.mean(axis=axis)
    return means
