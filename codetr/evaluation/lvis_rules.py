"""The rules of LVIS that COCO does not have, on columns, so that any COCO evaluator can match what they leave.

Source: lvis-dataset/lvis-api lvis/results.py (limit_dets_per_image), lvis/eval.py (_prepare, evaluate_img).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from codetr.evaluation.results import Results
from codetr.evaluation.truth import Floats, GroundTruth, Ints

Bools = npt.NDArray[np.bool_]
FIXED_LIMIT = 10_000
"""Detections of a class that fixed AP counts, over the whole data set (arXiv 2102.01066)."""


def judged(
    truth: GroundTruth, results: Results, areas: Floats, *, limit: int | None
) -> tuple[GroundTruth, Results, Floats]:
    """What COCO's matching takes to follow the rules of LVIS: objects, detections and their areas (N,).

    limit: the best so many of an image count, over all classes; None (fixed AP) for the best 10,000 of each class over
    the data set.
    Detections of a class that the image was not searched for are left out. Those of a class that it is not
    exhaustively annotated with get an infinite area, which is outside of every range: unmatched, they are ignored.
    LVIS has no crowds, so every annotation is an object; nothing without an area counts, found or annotated.

    Raises:
        UserError: a detection names an unknown image or category.
    """
    truth = _objects(truth)
    assert truth.federated is not None
    images, classes = results.positions(truth)
    kept = (
        best_of_each(images, results.scores, limit)
        if limit is not None
        else best_of_each(classes, results.scores, FIXED_LIMIT)
    )
    num_classes = len(truth.names)

    def keys(pairs: Ints) -> Ints:
        return pairs[:, 0] * num_classes + pairs[:, 1]

    found = images * num_classes + classes
    present = truth.image_index * num_classes + truth.category_index
    searched = np.concatenate([present, keys(truth.federated.negative)])
    rows = np.flatnonzero(kept & (areas > 0) & _among(found, searched))
    areas = areas[rows]
    areas[_among(found[rows], keys(truth.federated.not_exhaustive))] = np.inf
    return truth, results.take(rows), areas


def _objects(truth: GroundTruth) -> GroundTruth:
    rows = np.flatnonzero(truth.areas > 0)
    return replace(
        truth,
        image_index=truth.image_index[rows],
        category_index=truth.category_index[rows],
        boxes=truth.boxes[rows],
        areas=truth.areas[rows],
        crowd=np.zeros(len(rows), dtype=np.bool_),
        segmentations=tuple(truth.segmentations[row] for row in rows.tolist()),
    )


def best_of_each(groups: Ints, scores: Floats, limit: int) -> Bools:
    """(N,) True for the `limit` highest scores of each group; of equal ones the first."""
    kept = np.ones(len(groups), dtype=np.bool_)
    sizes = np.bincount(groups)
    rows = np.flatnonzero(sizes[groups] > limit)  # few, as a rule: a model gives no more than are counted
    order = rows[np.lexsort((-scores[rows], groups[rows]))]
    counts = sizes[sizes > limit]
    ranks = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept[order[ranks >= limit]] = False
    return kept


def _among(values: Ints, wanted: Ints) -> Bools:
    """(N,) True where `wanted` holds the value."""
    known = np.unique(wanted)
    if not len(known):
        return np.zeros(len(values), dtype=np.bool_)
    return known[np.searchsorted(known, values).clip(max=len(known) - 1)] == values
