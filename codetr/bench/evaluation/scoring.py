"""How long it takes to score a results set as large as that of COCO's validation images."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codetr.data.coco_classes import COCO_CLASSES
from codetr.evaluation.evaluators import open_evaluator, score
from codetr.evaluation.results import Results
from codetr.evaluation.truth import GroundTruth

OBJECTS_PER_IMAGE = 7.3
"""COCO's validation images have 36,781 objects on 5,000 images."""
SIZE = (480, 640)


@dataclass(frozen=True)
class Scored:
    """Seconds of scoring, without the reading of the annotations."""

    evaluator: str
    images: int
    objects: int
    detections: int
    seconds: float
    reading_seconds: float
    AP: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def score_synthetic(evaluator: str, *, images: int, detections: int = 100) -> Scored:
    """Score boxes near random objects, and others, `detections` of each image."""
    rng = np.random.default_rng(0)
    content = random_annotations(rng, images)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "annotations.json")
        file.write_text(json.dumps(content))
        start = time.perf_counter()
        truth = GroundTruth.load(file)
        read = time.perf_counter() - start
    results = detected(rng, content, detections)
    library = open_evaluator(evaluator)
    start = time.perf_counter()
    figures = score(truth, results, evaluator=library)
    seconds = time.perf_counter() - start
    ap = figures.as_dict()["AP"]
    return Scored(library.name, images, len(content["annotations"]), len(results), seconds, read, ap)


def random_annotations(rng: np.random.Generator, images: int) -> dict[str, Any]:
    """A COCO file of random boxes."""
    count = round(images * OBJECTS_PER_IMAGE)
    boxes = _boxes(rng, count).round(2)
    owners, labels = rng.integers(1, images + 1, count), rng.integers(1, len(COCO_CLASSES) + 1, count)
    return {
        "images": [{"id": i + 1, "file_name": f"{i}.jpg", "height": SIZE[0], "width": SIZE[1]} for i in range(images)],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(COCO_CLASSES)],
        "annotations": [
            {"id": i + 1, "image_id": owner, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (owner, label, box) in enumerate(zip(owners.tolist(), labels.tolist(), boxes.tolist(), strict=True))
        ],
    }


def detected(rng: np.random.Generator, content: dict[str, Any], per_image: int) -> Results:
    """Every object found a little displaced, and boxes at random until every image has `per_image`."""
    images, objects = len(content["images"]), content["annotations"]
    found = np.array([[o["image_id"], *o["bbox"], 0.0, o["category_id"]] for o in objects])
    found[:, 1:5] = (found[:, 1:5] + rng.normal(0, 4, (len(found), 4))).clip(min=1)
    found[:, 5] = rng.uniform(0.2, 1, len(found))
    missing = (per_image - np.bincount(found[:, 0].astype(int), minlength=images + 1)[1:]).clip(min=0)
    owners = np.repeat(np.arange(1, images + 1), missing)
    labels = rng.integers(1, len(COCO_CLASSES) + 1, len(owners))
    others = np.column_stack([owners, _boxes(rng, len(owners)), rng.uniform(0, 0.3, len(owners)), labels])
    return Results.of(np.concatenate([found, others]))


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(N, 4) xywh, of sides from 4 to 400 pixels, as many small as large."""
    sides = np.exp(rng.uniform(np.log(4), np.log(400), (count, 2)))
    corners = rng.uniform(0, 1, (count, 2)) * (np.array(SIZE[::-1]) - sides)
    return np.concatenate([corners, sides], 1)
