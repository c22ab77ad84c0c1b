"""hotcoco behind the evaluator interface."""

from __future__ import annotations

from typing import ClassVar

import hotcoco
import numpy as np

from codetr.evaluation.evaluators import Evaluator, Rules
from codetr.evaluation.figures import Curves
from codetr.evaluation.results import Results
from codetr.evaluation.truth import Floats, GroundTruth


class Adapter(Evaluator):
    """Hands over columns, so that no object is made per detection.

    Images and classes go by their position plus 1: hotcoco takes no negative ids, and the order is the same.
    """

    name: ClassVar[str] = "hotcoco"

    def curves(self, truth: GroundTruth, results: Results, areas: Floats, rules: Rules) -> Curves:
        expected = _truth(truth, with_masks=rules.iou_type == "segm")
        evaluation = hotcoco.COCOeval(expected, _detections(expected, truth, results, areas), rules.iou_type)
        evaluation.params.max_dets = list(rules.limits)
        evaluation.params.use_cats = not rules.class_agnostic
        evaluation.evaluate()
        evaluation.accumulate()
        curves = evaluation.eval or {}
        return Curves(np.asarray(curves["precision"]), np.asarray(curves["recall"]))


def _truth(truth: GroundTruth, *, with_masks: bool) -> hotcoco.COCO:
    images = [
        {"id": index, "height": height, "width": width, "file_name": ""}
        for index, (height, width) in enumerate(truth.image_sizes.tolist(), start=1)
    ]
    return hotcoco.COCO.from_arrays(
        images,
        [{"id": index, "name": name} for index, name in enumerate(truth.names, start=1)],
        truth.image_index + 1,
        truth.category_index + 1,
        truth.boxes,
        area=truth.areas,
        iscrowd=truth.crowd,
        segmentation=list(truth.segmentations) if with_masks else None,
    )


def _detections(expected: hotcoco.COCO, truth: GroundTruth, results: Results, areas: Floats) -> hotcoco.COCO:
    images, categories = results.positions(truth)
    rows = np.column_stack([images + 1, results.boxes, results.scores, categories + 1]).astype(np.float64)
    segmentations = None if results.segmentations is None else list(results.segmentations)
    found = expected.load_res(rows, segmentation=segmentations)
    found.update_anns(ids=np.arange(1, len(areas) + 1), area=areas)  # it takes those of the boxes otherwise
    return found
