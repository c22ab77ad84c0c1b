"""hotcoco's evaluator of streams: it matches an image when it comes and keeps the outcome, not the detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hotcoco
import numpy as np

from codetr.evaluation.evaluators import Rules, require_scorable
from codetr.evaluation.figures import Curves
from codetr.evaluation.results import Results
from codetr.evaluation.streams import Stream, divided
from codetr.evaluation.truth import GroundTruth

MOST_OF_LVIS = 300
"""Detections of an image that its LVIS rules take; it leaves out what comes beyond without a word."""


def takes(rules: Rules) -> bool:
    """True for rules that can be followed image by image, with classes told apart. Fixed AP needs all of a class."""
    if rules.limit is None or rules.class_agnostic:
        return False
    return rules.protocol == "coco" or rules.limit <= MOST_OF_LVIS


class MatchedImages(Stream):
    """Images and classes go by their position plus 1, as in the adapter.

    Raises:
        UserError: the ground truth has not what the rules need.
    """

    def __init__(self, truth: GroundTruth, rules: Rules) -> None:
        super().__init__()
        require_scorable(truth, rules)
        self._truth, self._rules = truth, rules
        order = np.argsort(truth.image_index, kind="stable")
        self._order, self._starts = order, _starts(truth.image_index[order], len(truth.image_ids))
        params = hotcoco.Params(rules.iou_type)
        params.max_dets = list(rules.limits)
        is_lvis = rules.protocol == "lvis"
        self._lists = _federated_lists(truth) if is_lvis else {}
        self._stream = hotcoco.StreamingEval(_categories(truth), rules.iou_type, lvis_style=is_lvis, params=params)

    def curves(self, states: Sequence[bytes]) -> Curves:
        contents = [divided(state) for state in states]
        seen = {image for images, _ in contents for image in images}
        # Of an image in several of them, the one that comes last counts.
        merged = hotcoco.StreamingEval.merge(
            hotcoco.StreamingEval.from_bytes(bytes(content)) for _, content in reversed(contents)
        )
        for position, image in enumerate(self._truth.image_ids.tolist()):
            if image not in seen:
                merged.update([self._image(position)], self._objects(position), np.empty((0, 7)))
        evaluation = merged.finalize()
        evaluation.accumulate()
        curves = evaluation.eval or {}
        return Curves(np.asarray(curves["precision"]), np.asarray(curves["recall"]))

    def _take(self, image_id: int, results: Results) -> None:
        if self._rules.protocol == "lvis":
            results = results.take(np.sort(np.argsort(-results.scores, kind="stable")[: self._rules.limit]))
            results = results.take(np.flatnonzero(results.areas(self._truth) > 0))  # as LVIS counts them
        position = int(np.searchsorted(self._truth.image_ids, image_id).clip(max=len(self._truth.image_ids) - 1))
        found = self._masks(results) if self._rules.iou_type == "segm" else self._boxes(results)
        if self._truth.image_ids[position] == image_id:
            self._stream.update([self._image(position)], self._objects(position), found)

    def _content(self) -> bytes:
        return bytes(self._stream.to_bytes())

    def _boxes(self, results: Results) -> Any:
        images, categories = results.positions(self._truth)
        columns = [images + 1, results.boxes, results.scores, categories + 1]
        return np.column_stack(columns).astype(np.float64)

    def _masks(self, results: Results) -> list[dict[str, Any]]:
        """Without boxes, so that the area of a detection is that of its mask."""
        results.areas(self._truth)  # checks the masks
        images, categories = results.positions(self._truth)
        columns = (images.tolist(), categories.tolist(), results.scores.tolist(), results.segmentations or ())
        return [
            {"image_id": image + 1, "category_id": category + 1, "score": score, "segmentation": segmentation}
            for image, category, score, segmentation in zip(*columns, strict=True)
        ]

    def _image(self, position: int) -> dict[str, Any]:
        height, width = self._truth.image_sizes[position].tolist()
        lists = {key: lists.get(position, []) for key, lists in self._lists.items()}
        return {"id": position + 1, "height": height, "width": width, "file_name": "", **lists}

    def _objects(self, position: int) -> list[dict[str, Any]]:
        truth, with_masks = self._truth, self._rules.iou_type == "segm"
        rows = self._order[self._starts[position] : self._starts[position + 1]].tolist()
        crowds = self._rules.protocol == "coco"  # LVIS has none, and counts nothing without an area
        rows = [row for row in rows if crowds or truth.areas[row] > 0]
        return [
            {
                "id": row + 1,
                "image_id": position + 1,
                "category_id": int(truth.category_index[row]) + 1,
                "bbox": truth.boxes[row].tolist(),
                "area": float(truth.areas[row]),
                "iscrowd": int(crowds and truth.crowd[row]),
            }
            | ({"segmentation": truth.segmentations[row]} if with_masks else {})
            for row in rows
        ]


def _starts(sorted_index: Any, count: int) -> Any:
    return np.searchsorted(sorted_index, np.arange(count + 1))


def _categories(truth: GroundTruth) -> list[dict[str, Any]]:
    categories = [{"id": index, "name": name} for index, name in enumerate(truth.names, start=1)]
    if truth.federated is not None:
        for category, frequency in zip(categories, truth.federated.frequencies, strict=True):
            category["frequency"] = frequency
    return categories


def _federated_lists(truth: GroundTruth) -> dict[str, dict[int, list[int]]]:
    """The LVIS lists of each image by its position."""
    assert truth.federated is not None
    found: dict[str, dict[int, list[int]]] = {}
    pairs = {
        "neg_category_ids": truth.federated.negative,
        "not_exhaustive_category_ids": truth.federated.not_exhaustive,
    }
    for key, rows in pairs.items():
        lists: dict[int, list[int]] = {}
        for image, category in rows.tolist():
            lists.setdefault(image, []).append(category + 1)
        found[key] = lists
    return found
