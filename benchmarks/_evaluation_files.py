"""Synthetic annotation and results files of the size of COCO's and LVIS's validation sets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
SIDE = 640
_CHUNK = 100_000


@dataclass(frozen=True)
class Size:
    """images, objects, classes of the annotation file; detections in each image of the results file."""

    images: int
    objects: int
    classes: int
    detections: int
    federated: bool

    def part(self, share: float) -> Size:
        """The same with fewer images."""
        images, objects = max(1, round(self.images * share)), max(1, round(self.objects * share))
        return Size(images, objects, self.classes, self.detections, self.federated)


SIZES = {
    "coco": Size(5_000, 36_700, 80, 100, federated=False),
    "lvis": Size(19_809, 244_700, 1_203, 300, federated=True),
}


def write_files(size: Size, folder: Path) -> tuple[Path, Path]:
    """An annotation file and a results file, the same for the same size.

    Classes are as frequent as 1/rank. In an image with objects one detection in four is one of them, moved by some
    pixels and in one of ten cases of another class; all others lie anywhere.
    """
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, size.classes + 1)
    images = np.sort(rng.integers(0, size.images, size.objects))
    classes = rng.choice(size.classes, size.objects, p=weights / weights.sum())
    boxes = _boxes(rng, size.objects)
    folder.mkdir(parents=True, exist_ok=True)
    truth, found = folder / "annotations.json", folder / "results.json"
    _write_truth(truth, size, rng, images, classes, boxes)
    with found.open("w") as file:
        file.write("[")
        for number, lines in enumerate(_detections(size, rng, weights / weights.sum(), images, classes, boxes)):
            file.write((",\n" if number else "") + lines)
        file.write("]")
    return truth, found


def _boxes(rng: np.random.Generator, count: int) -> Array:
    """(count, 4) xywh inside the image, of all sizes."""
    sides = np.exp(rng.uniform(np.log(4), np.log(SIDE * 0.8), (count, 2)))
    return np.concatenate([rng.random((count, 2)) * (SIDE - sides), sides], axis=1).round(2)


def _write_truth(file: Path, size: Size, rng: np.random.Generator, images: Array, classes: Array, boxes: Array) -> None:
    categories = [{"id": index + 1, "name": f"class_{index + 1}"} for index in range(size.classes)]
    entries: list[dict[str, Any]] = [
        {"id": index + 1, "width": SIDE, "height": SIDE, "file_name": f"{index + 1:012}.jpg"}
        for index in range(size.images)
    ]
    crowd = (rng.random(size.objects) < 0.01) & (not size.federated)
    if size.federated:
        _add_federated(rng, entries, categories, images, classes)
    columns = (images + 1, classes + 1, boxes, (boxes[:, 2] * boxes[:, 3]).round(2), crowd.astype(np.int64))
    keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
    rows = zip(*(column.tolist() for column in columns), strict=True)
    annotations = [{"id": index, **dict(zip(keys, row, strict=True))} for index, row in enumerate(rows, start=1)]
    content = {"info": {}, "licenses": [], "images": entries, "categories": categories, "annotations": annotations}
    file.write_text(json.dumps(content))


def _add_federated(
    rng: np.random.Generator,
    entries: list[dict[str, Any]],
    categories: list[dict[str, Any]],
    images: Array,
    classes: Array,
) -> None:
    """Groups as large as in LVIS v1 (405 frequent, 461 common, 337 rare classes); seven negative classes an image."""
    for index, category in enumerate(categories):
        place = index / len(categories)
        category["frequency"] = "f" if place < 0.337 else "c" if place < 0.72 else "r"
        category["image_count"] = {"f": 500, "c": 50, "r": 5}[category["frequency"]]
    ends = np.searchsorted(images, np.arange(len(entries) + 1))
    for index, entry in enumerate(entries):
        present = set((classes[ends[index] : ends[index + 1]] + 1).tolist())
        others = set(rng.integers(1, len(categories) + 1, 7).tolist())
        entry["neg_category_ids"] = sorted(others - present)
        entry["not_exhaustive_category_ids"] = [value for value in sorted(present) if rng.random() < 0.1]


def _detections(
    size: Size, rng: np.random.Generator, weights: Array, images: Array, classes: Array, boxes: Array
) -> Iterator[str]:
    """Lines of JSON, a portion of images at a time."""
    starts = np.searchsorted(images, np.arange(size.images))
    counts = np.bincount(images, minlength=size.images)
    step = max(1, _CHUNK // size.detections)
    for first in range(0, size.images, step):
        own = np.repeat(np.arange(first, min(first + step, size.images)), size.detections)
        hits = (rng.random(len(own)) < 0.25) & (counts[own] > 0)
        objects = (starts[own] + (rng.random(len(own)) * counts[own]).astype(np.int64)).clip(max=size.objects - 1)
        kinds = rng.choice(size.classes, len(own), p=weights)
        kinds = np.where(hits & (rng.random(len(own)) < 0.9), classes[objects], kinds)
        shifts = boxes[objects][:, [2, 3, 2, 3]] * rng.normal(0, 0.08, (len(own), 4))
        found = np.where(hits[:, None], boxes[objects] + shifts, _boxes(rng, len(own))).clip(min=1).round(2)
        scores = (rng.random(len(own)) * np.where(hits, 1, 0.7)).round(6)
        rows = zip((own + 1).tolist(), (kinds + 1).tolist(), found.tolist(), scores.tolist(), strict=True)
        yield ",\n".join(
            f'{{"image_id": {image}, "category_id": {kind}, "bbox": {box}, "score": {score}}}'
            for image, kind, box, score in rows
        )
