"""Builds the tables of a data set from its annotation file, and refuses what cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codetr.data.annotations import (
    ROUNDING,
    AnnotationFile,
    Entry,
    ImageFolder,
    annotation_flaw,
    category_flaw,
    image_flaw,
    is_crowd,
    stated_size,
)
from codetr.data.box_order import form_of
from codetr.data.findings import brief
from codetr.data.shards import Shards
from codetr.errors import UserError
from codetr.structures import ImageInfo

FEWEST_TO_JUDGE = 5  # boxes; fewer may look like another form by chance
NAMED = 3  # entries that an error names before it counts the rest
CURE = (
    "`codetr data check` lists every such entry, and its `--fix OUT` writes a copy in which they are mended or left out"
)


@dataclass(frozen=True)
class Table:
    """All annotations of a data set, image after image.

    Flat arrays and not lists of objects: workers share their memory with the parent, since nobody counts references.
    boxes: (N, 4) xyxy pixels. labels: (N,). crowd: (N,) bool. starts: (images + 1,), first row of each image.
    segments: N segmentations as the file has them, or None. dropped, clipped: number of boxes with nothing in the
    image, and of boxes cut at its border.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    starts: NDArray[np.int64]
    segments: Sequence[Any] | None
    dropped: int
    clipped: int


def _with_cure(problem: str) -> str:
    return problem if "--fix" in problem else f"{problem}; {CURE}"


def read_categories(file: AnnotationFile) -> dict[int, str]:
    """Names by category id, ids ascending. Raises: UserError if there are none, or one cannot be used."""
    if not file.categories:
        raise UserError(f"{file.path}: 'categories' is empty; the class names come from it")
    names: dict[int, str] = {}
    for entry in file.categories:
        problem = category_flaw(entry)
        if problem is None and entry["id"] in names:
            problem = "this id is used twice"
        if problem is not None:
            raise UserError(f"{file.path}: category id {entry.get('id')!r}: {problem}")
        names[entry["id"]] = entry["name"]
    return dict(sorted(names.items()))


def read_infos(file: AnnotationFile, folder: ImageFolder | Shards) -> tuple[ImageInfo, ...]:
    """The images in the file's order, each found on disk. Raises: UserError if one is missing, or cannot be used."""
    infos: dict[int, ImageInfo] = {}
    missing: list[str] = []
    for entry in file.images:
        problem = _image_problem(entry, infos, folder)
        if problem is not None:
            raise UserError(f"{file.path}: image id {entry.get('id')}: {_with_cure(problem)}")
        found = folder.find(entry["file_name"])
        size = stated_size(entry)
        if found is None or size is None:
            missing.append(f"{brief(entry['file_name'])} (image id {entry['id']})")
        else:
            infos[entry["id"]] = ImageInfo(entry["id"], str(found), size)
    if missing:
        named = ", ".join(missing[:NAMED]) + (f" and {len(missing) - NAMED} more" if len(missing) > NAMED else "")
        raise UserError(
            f"{file.path}: {len(missing)} of {len(file.images)} images are not in {folder.root}: {named}; "
            f"name their folder with data.train.images or data.val.images, or see `codetr data check`"
        )
    if not infos:
        raise UserError(f"{file.path}: 'images' is empty; there is nothing to read")
    return tuple(infos.values())


def read_table(file: AnnotationFile, infos: Sequence[ImageInfo], category_ids: Sequence[int], *, masks: bool) -> Table:
    """The annotations, grouped by image. Raises: UserError, naming the annotation id, if one cannot be used."""
    positions = {info.image_id: index for index, info in enumerate(infos)}
    labels = {identity: label for label, identity in enumerate(category_ids)}
    seen: set[int] = set()
    for entry in file.annotations:
        problem = annotation_flaw(entry) or _misfit(entry, seen, positions, labels, masks=masks)
        if problem is not None:
            raise UserError(f"{file.path}: annotation id {entry.get('id')}: {_with_cure(problem)}")
        seen.add(entry["id"])
    image_sizes = np.array([info.size for info in infos], dtype=np.int64).reshape(-1, 2)
    images = np.array([positions[entry["image_id"]] for entry in file.annotations], dtype=np.int64)
    boxes = np.array([entry["bbox"] for entry in file.annotations], dtype=np.float64).reshape(-1, 4)
    sizes = image_sizes[images]
    _require_pixels(file, boxes, sizes)
    limits = sizes[:, ::-1]
    ends = boxes[:, :2] + boxes[:, 2:]
    corners = np.concatenate([boxes[:, :2], ends], axis=1).clip(0, np.tile(limits, 2))
    empty = (np.minimum(boxes[:, 2:], corners[:, 2:] - corners[:, :2]) <= 0).any(axis=1)
    cut = (np.minimum(boxes[:, :2], limits - ends) < -ROUNDING).any(axis=1)
    order = np.argsort(images, kind="stable")
    kept = order[~empty[order]]
    classes = np.array([labels[entry["category_id"]] for entry in file.annotations], dtype=np.int64)
    crowd = np.array([is_crowd(entry) for entry in file.annotations], dtype=np.bool_)
    return Table(
        boxes=corners[kept].astype(np.float32),
        labels=classes[kept],
        crowd=crowd[kept],
        starts=np.searchsorted(images[kept], np.arange(len(infos) + 1)).astype(np.int64),
        segments=[file.annotations[index].get("segmentation") for index in kept.tolist()] if masks else None,
        dropped=int(empty.sum()),
        clipped=int((cut & ~empty).sum()),
    )


def _require_pixels(file: AnnotationFile, boxes: NDArray[np.float64], sizes: NDArray[np.int64]) -> None:
    """Raises: UserError if the boxes are of another form, of which clipping would make something wrong."""
    if len(boxes) < FEWEST_TO_JUDGE:
        return
    form = form_of(boxes, sizes, [entry.get("area") for entry in file.annotations])
    if form != "coco":
        leaving = int((boxes[:, :2] + boxes[:, 2:] > sizes[:, ::-1]).any(axis=1).sum())
        seen = {
            "corners": f"{leaving} leave their images as [x, y, width, height], and all fit as [x1, y1, x2, y2]",
            "relative": "all are of 0 to 1, as shares of the image; a COCO bbox is in pixels",
        }[form]
        raise UserError(
            f"{file.path}: of {len(boxes)} boxes {seen}; `codetr data check DIR --fix OUT` writes a copy with bbox as "
            "[x, y, width, height]"
        )


def _image_problem(entry: Entry, infos: dict[int, ImageInfo], folder: ImageFolder | Shards) -> str | None:
    problem = image_flaw(entry)
    if problem is not None:
        return problem
    if entry["id"] in infos:
        return "this id is used twice"
    if stated_size(entry) is None:
        return "its width and height must be positive integers (or, where the layout states none, it is no image)"
    if folder.leaves(entry["file_name"]):
        return f"file_name {entry['file_name']!r} leads out of the image folder {folder.root}"
    return None


def _misfit(
    entry: Entry, seen: set[int], positions: dict[int, int], labels: dict[int, int], *, masks: bool
) -> str | None:
    """What is wrong with an annotation given the other entries of its file, or None."""
    if entry["id"] in seen:
        return "this id is used twice"
    if entry["image_id"] not in positions:
        return f"image_id {entry['image_id']} is not among the file's images"
    if entry["category_id"] not in labels:
        known = f"{len(labels)} categories, ids {min(labels)} to {max(labels)}"
        return f"category_id {entry['category_id']} is not among the file's categories ({known})"
    if masks and not is_crowd(entry) and not entry.get("segmentation"):
        return "it has no segmentation, but data.masks is on"
    return None


def size_problem(annotations: Path, info: ImageInfo, size: tuple[int, int], *, is_turned: bool) -> str:
    """The message for a file whose pixels are of another size than its annotations say. Sizes are (height, width)."""
    hint = "; its EXIF orientation, which is ignored here as in COCO, turns it" if is_turned else ""
    return (
        f"{info.file}: the file is {size[1]} x {size[0]} pixels, but {annotations} says "
        f"{info.size[1]} x {info.size[0]} (image id {info.image_id}){hint}; {CURE}"
    )
