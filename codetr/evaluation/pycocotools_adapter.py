"""pycocotools behind the evaluator interface."""

from __future__ import annotations

import contextlib
import io
from typing import Any, ClassVar

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from codetr.evaluation.evaluators import Evaluator, Rules
from codetr.evaluation.figures import UNDEFINED, Curves
from codetr.evaluation.results import Results
from codetr.evaluation.truth import Floats, GroundTruth, Ints


class Adapter(Evaluator):
    """Evaluates one class after another, on the images that show it or where it was found: the others change nothing.

    With the 1203 classes and 19,809 images of LVIS, pycocotools would otherwise look at 24 million pairs of image and
    class, nearly all of them empty, and all detections would be dictionaries at once.
    """

    name: ClassVar[str] = "pycocotools"

    def curves(self, truth: GroundTruth, results: Results, areas: Floats, rules: Rules) -> Curves:
        images, classes = results.positions(truth)
        if rules.class_agnostic:
            everything = _expected(truth, np.arange(len(truth.boxes))), _found(images, classes, results, areas)
            return _evaluated(truth, *everything, rules)
        num_classes = len(truth.names)
        rows_expected = _rows_by_class(truth.category_index, num_classes)
        rows_found = _rows_by_class(classes, num_classes)
        precision = np.full((10, 101, num_classes, 4, len(rules.limits)), UNDEFINED)
        recall = np.full((10, num_classes, 4, len(rules.limits)), UNDEFINED)
        for index, (own, found) in enumerate(zip(rows_expected, rows_found, strict=True)):
            if not len(own):  # every figure is undefined
                continue
            few = _found(images[found], classes[found], results.take(found), areas[found])
            curves = _evaluated(truth, _expected(truth, own), few, rules)
            precision[:, :, index], recall[:, index] = curves.precision[:, :, 0], curves.recall[:, 0]
        return Curves(precision, recall)


def _rows_by_class(classes: Ints, num_classes: int) -> list[Ints]:
    """Positions of the entries of each class, ascending."""
    ends = np.cumsum(np.bincount(classes, minlength=num_classes))
    return np.split(np.argsort(classes, kind="stable"), ends[:-1])


def _evaluated(truth: GroundTruth, expected: list[dict[str, Any]], found: list[dict[str, Any]], rules: Rules) -> Curves:
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress there
        both = (*expected, *found)
        evaluation = COCOeval(_coco(truth, expected, both), _coco(truth, found, both), rules.iou_type)
        evaluation.params.maxDets = list(rules.limits)
        evaluation.params.useCats = int(not rules.class_agnostic)
        evaluation.evaluate()
        evaluation.accumulate()
    return Curves(evaluation.eval["precision"], evaluation.eval["recall"])


def _coco(truth: GroundTruth, annotations: list[dict[str, Any]], both: tuple[dict[str, Any], ...]) -> Any:
    """pycocotools writes into the dictionaries that it is given, so they are made for each evaluation."""
    sizes = truth.image_sizes
    images = sorted({entry["image_id"] for entry in both})
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i, "height": int(sizes[i, 0]), "width": int(sizes[i, 1])} for i in images],
        "categories": [{"id": index} for index in sorted({entry["category_id"] for entry in both})],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _expected(truth: GroundTruth, rows: Ints) -> list[dict[str, Any]]:
    columns = (truth.image_index, truth.category_index, truth.boxes, truth.areas, truth.crowd.astype(np.int64))
    keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
    entries = _entries(keys, *(column[rows] for column in columns))
    for entry, row in zip(entries, rows.tolist(), strict=True):
        entry["segmentation"] = truth.segmentations[row]
    return entries


def _found(images: Ints, classes: Ints, results: Results, areas: Floats) -> list[dict[str, Any]]:
    keys = ("image_id", "category_id", "bbox", "score", "area")
    entries = _entries(keys, images, classes, results.boxes, results.scores, areas)
    for entry, segmentation in zip(entries, results.segmentations or (), strict=False):
        entry["segmentation"] = segmentation
    return entries


def _entries(keys: tuple[str, ...], *columns: Ints | Floats) -> list[dict[str, Any]]:
    """Numbered from 1: pycocotools takes an object whose id is 0 for one that is not matched."""
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [{"id": number, **dict(zip(keys, row, strict=True))} for number, row in enumerate(rows, start=1)]
