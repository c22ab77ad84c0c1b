"""From precision and recall to the figures that papers report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from codetr.evaluation.truth import Floats

UNDEFINED = -1.0
"""The value of a figure over no ground truth, e.g. APs where no object is small."""


@dataclass(frozen=True)
class Curves:
    """What every evaluator computes.

    precision: (T, R, K, A, M), at IoU 0.50:0.05:0.95, recall 0:0.01:1, each class, area (all, small, medium, large) and
    number of detections (1, 10, max_detections). recall: (T, K, A, M), the highest reached. Both -1 where undefined.
    """

    precision: Floats
    recall: Floats


@dataclass(frozen=True)
class CocoFigures:
    """The twelve COCO figures, each in (0, 1), or `UNDEFINED`.

    AP: mean over IoU 0.50:0.95 and classes; AP50, AP75 at one IoU; APs, APm, APl: objects below 32^2, up to 96^2, and
    above, in square pixels. AR1, AR10: recall with at most so many detections in an image and class.
    AR100, ARs, ARm, ARl: with at most `max_detections`, which is 100 unless set.
    per_class: AP of each class by its name; empty if classes were not told apart.
    """

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    AR1: float
    AR10: float
    AR100: float
    ARs: float
    ARm: float
    ARl: float
    per_class: Mapping[str, float]
    max_detections: int = 100

    def as_dict(self) -> dict[str, float]:
        """The twelve figures by name; with another limit than 100, `AR100` is called `AR`."""
        names = FIGURE_NAMES
        return {self.public_name(name): getattr(self, name) for name in names}

    def public_name(self, name: str) -> str:
        """The name to show for a field."""
        return "AR" if name == "AR100" and self.max_detections != 100 else name


FIGURE_NAMES = tuple(entry.name for entry in fields(CocoFigures) if entry.name not in ("per_class", "max_detections"))


def coco_figures(curves: Curves, names: tuple[str, ...], *, max_detections: int = 100) -> CocoFigures:
    """Average the curves. names: of the K classes, or () if they were not told apart."""
    precision, recall = curves.precision, curves.recall
    iou_50, iou_75 = 0, 5
    ap = {name: _mean(precision[..., area, 2]) for area, name in enumerate(("AP", "APs", "APm", "APl"))}
    ar = {name: _mean(recall[..., area, 2]) for area, name in enumerate(("AR100", "ARs", "ARm", "ARl"))}
    classes = [_mean(precision[:, :, k, 0, 2]) for k in range(len(names))]
    return CocoFigures(
        AP50=_mean(precision[iou_50, ..., 0, 2]),
        AP75=_mean(precision[iou_75, ..., 0, 2]),
        AR1=_mean(recall[..., 0, 0]),
        AR10=_mean(recall[..., 0, 1]),
        per_class=dict(zip(names, classes, strict=True)),
        max_detections=max_detections,
        **ap,
        **ar,
    )


def _mean(values: Any) -> float:
    """Mean of what is defined."""
    defined = values[values > UNDEFINED]
    return float(np.mean(defined)) if defined.size else UNDEFINED
