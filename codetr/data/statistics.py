"""What a data set consists of: classes, sizes, objects per image. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from codetr.data.annotations import (
    AnnotationFile,
    ImageFolder,
    annotation_flaw,
    category_flaw,
    clipped,
    is_crowd,
    is_empty,
    is_id,
    stated_size,
)
from codetr.data.check_annotations import is_area
from codetr.data.check_ids import with_numbers
from codetr.data.check_images import ImageFacts, Progress, check_images

SMALL, MEDIUM = 32**2, 96**2  # px of area, COCO's
QUANTILES = (0, 0.01, 0.25, 0.5, 0.75, 0.99, 1)
COUNT_BINS = (0, 1, 2, 3, 5, 9, 17, 33, 65, 129, 257)  # first count of objects of each bar
ASPECT_BINS = (0, 1 / 4, 1 / 2, 4 / 5, 5 / 4, 2.0, 4.0)  # first width over height of each bar


@dataclass(frozen=True)
class SplitStatistics:
    """One split. Boxes are clipped to their image, crowd regions counted apart.

    classes: names by category id. frequency: r, c or f by category id, where the file says so (LVIS). boxes: (N, 2)
    width and height of the objects. areas: (N,) as the file states them, of masks if there are any. labels: (N,)
    category ids. owners: (N,) row of the image. sizes: (I, 2) height and width; 0 if not known. crowds: regions.
    skipped: annotations that cannot be used.
    """

    split: str
    file: AnnotationFile
    facts: ImageFacts
    classes: Mapping[int, str]
    frequency: Mapping[int, str]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    labels: NDArray[np.int64]
    owners: NDArray[np.int64]
    sizes: NDArray[np.int64]
    crowds: int
    skipped: int

    @property
    def images(self) -> int:
        return len(self.sizes)

    @property
    def objects(self) -> int:
        return len(self.labels)

    def counts(self) -> NDArray[np.int64]:
        """Objects of each image."""
        return np.bincount(self.owners, minlength=self.images)

    def per_class(self) -> dict[int, tuple[int, int]]:
        """Objects, and images that have any, by category id; every category is there."""
        objects = dict.fromkeys(self.classes, 0)
        images = dict.fromkeys(self.classes, 0)
        for label, number in zip(*np.unique(self.labels, return_counts=True), strict=True):
            objects[int(label)] = int(number)
        pairs = np.unique(np.stack([self.labels, self.owners], axis=1), axis=0)
        for label, number in zip(*np.unique(pairs[:, 0], return_counts=True), strict=True):
            images[int(label)] = int(number)
        return {identity: (objects[identity], images[identity]) for identity in self.classes}

    def shares(self) -> tuple[float, float, float]:
        """Shares of small, medium and large objects, by COCO's limits of area."""
        if not self.objects:
            return 0.0, 0.0, 0.0
        small, large = float((self.areas < SMALL).mean()), float((self.areas >= MEDIUM).mean())
        return small, 1 - small - large, large

    def aspects(self) -> NDArray[np.float64]:
        """Width over height of the boxes."""
        return self.boxes[:, 0] / self.boxes[:, 1]

    def relative(self) -> NDArray[np.float64]:
        """Square root of each box's share of its image, for the images whose size is known."""
        area = self.sizes[self.owners].prod(axis=1).astype(np.float64)
        known = area > 0
        return np.sqrt(self.boxes[known].prod(axis=1) / area[known])

    def record(self) -> dict[str, Any]:
        """The figures as JSON."""
        small, medium, large = self.shares()
        return {
            "annotations": str(self.file.path),
            "images": self.images,
            "images_without_objects": int((self.counts() == 0).sum()),
            "objects": self.objects,
            "crowd_regions": self.crowds,
            "annotations_skipped": self.skipped,
            "classes": [
                {
                    "id": identity,
                    "name": name,
                    "objects": objects,
                    "images": images,
                    **({"frequency": self.frequency[identity]} if identity in self.frequency else {}),
                }
                for (identity, name), (objects, images) in zip(
                    self.classes.items(), self.per_class().values(), strict=True
                )
            ],
            "size_shares": {"small": small, "medium": medium, "large": large},
            "quantiles": quantile_rows([self]),
            "objects_per_image": dict(histogram(self.counts(), COUNT_BINS)),
            "aspect_ratios": dict(histogram(self.aspects(), ASPECT_BINS)),
        }


def split_statistics(
    file: AnnotationFile,
    images: ImageFolder | None,
    *,
    split: str,
    progress: Progress | None = None,
) -> SplitStatistics:
    """The figures of one split.

    images: looked at as thumbnails; null believes the sizes that the file states.
    progress: called with the number of images done and of all images.
    """
    file, _ = with_numbers(file)
    facts = check_images(file, images, depth="thumbnail", progress=progress) if images is not None else ImageFacts()
    rows = {entry["id"]: index for index, entry in enumerate(file.images) if is_id(entry.get("id"))}
    stated = [_size(entry, facts) for entry in file.images]
    classes = {entry["id"]: str(entry["name"]) for entry in file.categories if category_flaw(entry) is None}
    kept: list[tuple[float, float, float, int, int]] = []
    crowds = skipped = 0
    for entry in file.annotations:
        if annotation_flaw(entry) or entry["image_id"] not in rows or entry["category_id"] not in classes:
            skipped += 1
            continue
        row = rows[entry["image_id"]]
        width, height = _inside(entry["bbox"], stated[row])
        if width <= 0 or height <= 0:
            skipped += 1
        elif is_crowd(entry):
            crowds += 1
        else:
            area = entry["area"] if is_area(entry.get("area")) else width * height
            kept.append((width, height, area, entry["category_id"], row))
    table = np.array(kept, dtype=np.float64).reshape(-1, 5)
    return SplitStatistics(
        split=split,
        file=file,
        facts=facts,
        classes=classes,
        frequency={e["id"]: str(e["frequency"]) for e in file.categories if e.get("frequency") and is_id(e.get("id"))},
        boxes=table[:, :2],
        areas=table[:, 2],
        labels=table[:, 3].astype(np.int64),
        owners=table[:, 4].astype(np.int64),
        sizes=np.array(stated, dtype=np.int64).reshape(-1, 2),
        crowds=crowds,
        skipped=skipped,
    )


def quantile_rows(splits: Sequence[SplitStatistics]) -> dict[str, list[float]]:
    """Quantiles (`QUANTILES`) of what is measured, over all given splits together; without what has no values."""
    sizes = np.concatenate([split.sizes for split in splits])
    sizes = sizes[sizes.min(axis=1) > 0]
    boxes = np.concatenate([split.boxes for split in splits])
    values: dict[str, NDArray[Any]] = {
        "box width, px": boxes[:, 0],
        "box height, px": boxes[:, 1],
        "box area, px": boxes.prod(axis=1),
        "box side, share of the image's": np.concatenate([split.relative() for split in splits]),
        "box width / height": boxes[:, 0] / boxes[:, 1],
        "objects of an image": np.concatenate([split.counts() for split in splits]),
        "image width, px": sizes[:, 1],
        "image height, px": sizes[:, 0],
    }
    return {name: np.quantile(found, QUANTILES).tolist() for name, found in values.items() if found.size}


def histogram(values: ArrayLike, firsts: Sequence[float]) -> list[tuple[str, int]]:
    """How many values lie in each bin, from its first value to that of the next; without empty bins at the ends."""
    counts = np.histogram(np.asarray(values), bins=[*firsts, np.inf])[0].tolist()
    names = [_bin(first, after) for first, after in zip(firsts, [*firsts[1:], None], strict=True)]
    used = [index for index, count in enumerate(counts) if count]
    return [(names[index], counts[index]) for index in range(used[0], used[-1] + 1)] if used else []


def _bin(first: float, after: float | None) -> str:
    if after is None:
        return f"{_number(first)} or more"
    if isinstance(first, int) and isinstance(after, int):
        return f"{first}" if after == first + 1 else f"{first} to {after - 1}"
    return f"below {_number(after)}" if first == 0 else f"{_number(first)} to {_number(after)}"


def _number(value: float) -> str:
    """A ratio as a fraction of small numbers: 1/4, 5/4, 2."""
    return str(Fraction(value).limit_denominator(9))


def _size(entry: Mapping[str, Any], facts: ImageFacts) -> tuple[int, int]:
    """Height and width of the file, if it was looked at, or as stated; (0, 0) if neither is known."""
    found = facts.sizes.get(entry["id"]) if is_id(entry.get("id")) else None
    return found or stated_size(entry) or (0, 0)


def _inside(box: list[float], size: Iterable[int]) -> tuple[float, float]:
    """Width and height of a box in an image of a size, (0, 0) if that is not known."""
    height, width = size
    if not height or not width:
        return box[2], box[3]
    if is_empty(box, (height, width)):
        return 0.0, 0.0
    x1, y1, x2, y2 = clipped(box, (height, width))
    return x2 - x1, y2 - y1
