"""pycocotools behind the evaluator interface."""

from __future__ import annotations

import contextlib
import io
from typing import Any, ClassVar

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from codetr.evaluation.evaluators import CocoRules, Evaluator
from codetr.evaluation.figures import Curves
from codetr.evaluation.results import Results
from codetr.evaluation.truth import GroundTruth


class Adapter(Evaluator):
    """Builds new dictionaries for each evaluation, because pycocotools writes into those that it is given.

    Annotations are numbered from 1: pycocotools takes an object whose id is 0 for one that is not matched.
    """

    name: ClassVar[str] = "pycocotools"

    def coco_curves(self, truth: GroundTruth, results: Results, rules: CocoRules) -> Curves:
        found = _detections(truth, results)
        with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress there
            evaluation = COCOeval(_coco(truth, _annotations(truth)), _coco(truth, found), rules.iou_type)
            evaluation.params.maxDets = list(rules.limits)
            evaluation.params.useCats = int(not rules.class_agnostic)
            evaluation.evaluate()
            evaluation.accumulate()
        return Curves(evaluation.eval["precision"], evaluation.eval["recall"])


def _coco(truth: GroundTruth, annotations: list[dict[str, Any]]) -> Any:
    coco = COCO()
    coco.dataset = {
        "images": [
            {"id": index, "height": height, "width": width}
            for index, (height, width) in enumerate(truth.image_sizes.tolist(), start=1)
        ],
        "categories": [{"id": index, "name": name} for index, name in enumerate(truth.names, start=1)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _annotations(truth: GroundTruth) -> list[dict[str, Any]]:
    columns = (truth.image_index + 1, truth.category_index + 1, truth.boxes, truth.areas, truth.crowd.astype(np.int64))
    keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [
        {"id": index, "segmentation": segmentation, **dict(zip(keys, row, strict=True))}
        for index, (row, segmentation) in enumerate(zip(rows, truth.segmentations, strict=True), start=1)
    ]


def _detections(truth: GroundTruth, results: Results) -> list[dict[str, Any]]:
    images, categories = results.positions(truth)
    columns = (images + 1, categories + 1, results.boxes, results.scores, results.areas(truth))
    keys = ("image_id", "category_id", "bbox", "score", "area")
    rows = zip(*(column.tolist() for column in columns), strict=True)
    segmentations = results.segmentations or (None,) * len(results)
    return [
        {"id": index, "iscrowd": 0, "segmentation": segmentation, **dict(zip(keys, row, strict=True))}
        for index, (row, segmentation) in enumerate(zip(rows, segmentations, strict=True), start=1)
    ]
