"""An LVIS v1 annotation file of synthetic pictures, with what is special about LVIS: its annotations are federated.

Of each picture some absent classes are known to be absent, and some present ones are annotated in part only.

Source: the keys of lvis_v1_{train,val}.json, https://www.lvisdataset.org/dataset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator

from codetr.data.sampling_config import LongTail
from codetr.data.scene_looks import Look

Entry = dict[str, Any]
_NEGATIVE_SHARE, _NEGATIVES = 0.1, (2, 10)  # of all classes, for each picture; least and most of them
_PARTIAL = 0.3  # share of the classes with several objects in a picture that are annotated in part


def lvis_file(
    classes: Sequence[Look],
    pictures: Sequence[Sequence[Entry]],
    tail: LongTail,
    *,
    split: str,
    size: int,
    first_id: int,
    seed: int,
    frequencies: Mapping[int, str] | None = None,
) -> dict[str, Any]:
    """The content of a file. pictures: the annotations of each, without ids. frequencies: by category id, of the
    training file; None counts this file's own pictures, as for training."""
    images: list[Entry] = []
    items: list[Entry] = []
    for index, found in enumerate(pictures):
        rng = np.random.default_rng([seed, int(split != "train"), index, 1])
        kept, partial = _annotated(rng, found)
        absent = sorted({*range(1, len(classes) + 1)} - {item["category_id"] for item in found})
        image = _image(split, first_id + index, size)
        images.append(image | {"not_exhaustive_category_ids": partial, "neg_category_ids": _some(rng, absent, classes)})
        for item in kept:
            plain = {key: value for key, value in item.items() if key != "iscrowd"}  # LVIS knows no crowds
            items.append({"id": len(items) + 1, "image_id": image["id"], **plain})
    return {
        "info": {"description": f"Synthetic scenes of a long tail, seed {seed}", "version": "v1"},
        "licenses": [{"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "images": images,
        "annotations": items,
        "categories": _categories(classes, items, tail, frequencies),
    }


def frequencies_of(content: Mapping[str, Any]) -> dict[int, str]:
    """The group of each category id in a file."""
    return {category["id"]: category["frequency"] for category in content["categories"]}


def file_name(split: str, image_id: int) -> str:
    """Folder and name of a picture, as they end its `coco_url`."""
    return f"{split}2017/{image_id:012d}.jpg"


def _image(split: str, image_id: int, size: int) -> Entry:
    return {
        "id": image_id,
        "width": size,
        "height": size,
        "license": 1,
        "coco_url": f"http://localhost/{file_name(split, image_id)}",  # LVIS v1 has no other name of the file
        "date_captured": "2000-01-01 00:00:00",
    }


def _annotated(rng: Generator, found: Sequence[Entry]) -> tuple[list[Entry], list[int]]:
    """The annotations that are written, and the classes of which some are not; one at least always is."""
    by_class: dict[int, list[int]] = {}
    for position, item in enumerate(found):
        by_class.setdefault(item["category_id"], []).append(position)
    hidden: set[int] = set()
    partial = [k for k, own in sorted(by_class.items()) if len(own) > 1 and rng.random() < _PARTIAL]
    for category in partial:
        own = by_class[category]
        hidden.update(rng.choice(own, size=len(own) // 2, replace=False).tolist())
    return [item for position, item in enumerate(found) if position not in hidden], partial


def _some(rng: Generator, absent: Sequence[int], classes: Sequence[Look]) -> list[int]:
    number = min(len(absent), int(np.clip(round(_NEGATIVE_SHARE * len(classes)), *_NEGATIVES)))
    chosen: list[int] = rng.choice(absent, size=number, replace=False).tolist() if number else []
    return chosen


def _categories(
    classes: Sequence[Look], items: Sequence[Entry], tail: LongTail, frequencies: Mapping[int, str] | None
) -> list[Entry]:
    instances = Counter(item["category_id"] for item in items)
    images = Counter(category for _, category in {(item["image_id"], item["category_id"]) for item in items})
    return [
        {
            "id": category,
            "name": look.name,
            "synset": f"{look.name}.n.01",
            "synonyms": [look.name],
            "def": look.definition,
            "frequency": tail.group(images[category]) if frequencies is None else frequencies[category],
            "image_count": images[category],
            "instance_count": instances[category],
        }
        for category, look in enumerate(classes, 1)
    ]
