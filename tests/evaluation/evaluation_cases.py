"""Random ground truth and detections with all that makes evaluators differ: ties, crowds, empty images, federation."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask

from codetr.evaluation.evaluators import Rules
from codetr.evaluation.results import Results
from codetr.evaluation.truth import GroundTruth

SIDE = 64
CATEGORIES = (7, 3, 9, 20, 5, 11)
IMAGES = (40, 2, 31, 8, 15, 99)
EMPTY, UNSEEN = 8, 99
"""An image without detections, and one that no rank loads."""


def case(rules: Rules, *, seed: int = 0, detections: int = 12) -> tuple[GroundTruth, dict[int, Results]]:
    """Ground truth, and the detections of every image but `UNSEEN`."""
    rng = np.random.default_rng(seed)
    is_lvis, with_masks = rules.protocol == "lvis", rules.iou_type == "segm"
    annotations: list[dict[str, Any]] = []
    for image in IMAGES:
        for _ in range(4):
            box = random_box(rng)
            crowd = int(not is_lvis and rng.random() < 0.2)
            category = int(rng.choice(CATEGORIES[:4] if is_lvis else CATEGORIES))
            entry = {"image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd}
            annotations.append(
                {**entry, "id": len(annotations) + 1} | ({"segmentation": rle(box)} if with_masks else {})
            )
    images: list[dict[str, Any]] = [{"id": image, "height": SIDE, "width": SIDE} for image in IMAGES]
    if is_lvis:
        for entry in images:
            present = sorted({a["category_id"] for a in annotations if a["image_id"] == entry["id"]})
            entry |= {"neg_category_ids": [CATEGORIES[4]], "not_exhaustive_category_ids": present[:1]}
    categories = [{"id": key, "name": f"class {key}", "frequency": "rcf"[key % 3]} for key in CATEGORIES]
    truth = GroundTruth.parse({"images": images, "categories": categories, "annotations": annotations}, file="gt.json")
    found = {image: random_results(rng, image, annotations, detections, with_masks) for image in IMAGES[:-1]}
    found[EMPTY] = Results.of(np.empty((0, 7)))
    return truth, found


def random_results(
    rng: np.random.Generator, image: int, annotations: list[dict[str, Any]], count: int, with_masks: bool
) -> Results:
    """Detections near objects and anywhere, highest score first; scores have one decimal, so they tie."""
    objects = [entry for entry in annotations if entry["image_id"] == image]
    rows, boxes = [], []
    for index in range(count):
        near = objects[index % len(objects)]
        box = np.array(near["bbox"] if rng.random() < 0.7 else random_box(rng))
        box = np.clip(box + rng.integers(-2, 3, 4), 1, SIDE // 2).tolist()
        category = near["category_id"] if rng.random() < 0.8 else int(rng.choice(CATEGORIES))
        rows.append([image, *box, round(rng.random(), 1), category])
    rows.sort(key=lambda row: -row[5])
    boxes = [row[1:5] for row in rows]
    results = Results.of(np.array(rows))
    if not with_masks:
        return results
    return Results(
        results.file, results.image_ids, results.category_ids, results.boxes, results.scores, tuple(map(rle, boxes))
    )


def random_box(rng: np.random.Generator) -> list[int]:
    return [int(value) for value in rng.integers(1, SIDE // 2, 4)]


def rle(box: list[int]) -> dict[str, Any]:
    x, y, width, height = map(int, box)
    pixels = np.zeros((SIDE, SIDE), dtype=np.uint8, order="F")
    pixels[y : y + height, x : x + width] = 1
    code = mask.encode(pixels)
    return {"size": list(code["size"]), "counts": code["counts"].decode("ascii")}


RULES = {
    "coco boxes": Rules("bbox"),
    "coco masks": Rules("segm", max_detections=5),
    "lvis boxes": Rules("bbox", protocol="lvis"),
    "lvis boxes, 5": Rules("bbox", max_detections=5, protocol="lvis"),
    "lvis masks": Rules("segm", protocol="lvis"),
    "lvis boxes, 1000": Rules("bbox", max_detections=1000, protocol="lvis"),
    "fixed": Rules("bbox", protocol="lvis", fixed=True),
}
