"""Builds the tables of a data set from its annotation file, and refuses what cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codetr.data.annotations import (
    AnnotationFile,
    Entry,
    ImageFolder,
    annotation_flaw,
    category_flaw,
    clipped,
    image_flaw,
    is_crowd,
    is_cut,
    is_empty,
    stated_size,
)
from codetr.errors import UserError
from codetr.structures import ImageInfo

NAMED = 3  # entries that an error names before it counts the rest
CURE = "`codetr data check` lists every such entry, and its `--fix OUT` writes a copy without them"


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
    segments: list[Any] | None
    dropped: int
    clipped: int


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
            raise UserError(f"{file.path}: category id {entry.get('id')}: {problem}")
        names[entry["id"]] = entry["name"]
    return dict(sorted(names.items()))


def read_infos(file: AnnotationFile, folder: ImageFolder) -> tuple[ImageInfo, ...]:
    """The images in the file's order, each found on disk. Raises: UserError if one is missing, or cannot be used."""
    infos: dict[int, ImageInfo] = {}
    missing: list[str] = []
    for entry in file.images:
        problem = _image_problem(entry, infos, folder)
        if problem is not None:
            raise UserError(f"{file.path}: image id {entry.get('id')}: {problem}; {CURE}")
        found = folder.find(entry["file_name"])
        size = stated_size(entry)
        if found is None or size is None:
            missing.append(f"{entry['file_name']} (image id {entry['id']})")
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
    rows: list[list[tuple[float, float, float, float, int, bool]]] = [[] for _ in infos]
    segments: list[list[Any]] = [[] for _ in infos]
    seen: set[int] = set()
    cut = dropped = 0
    for entry in file.annotations:
        problem = annotation_flaw(entry) or _misfit(entry, seen, positions, labels, masks=masks)
        if problem is not None:
            raise UserError(f"{file.path}: annotation id {entry.get('id')}: {problem}; {CURE}")
        seen.add(entry["id"])
        index = positions[entry["image_id"]]
        size = infos[index].size
        if is_empty(entry["bbox"], size):
            dropped += 1
            continue
        cut += is_cut(entry["bbox"], size)
        rows[index].append((*clipped(entry["bbox"], size), labels[entry["category_id"]], is_crowd(entry)))
        segments[index].append(entry.get("segmentation"))
    kept = [segment for image in segments for segment in image] if masks else None
    return _table(rows, kept, dropped=dropped, cut=cut)


def _table(
    rows: list[list[tuple[float, float, float, float, int, bool]]],
    segments: list[Any] | None,
    *,
    dropped: int,
    cut: int,
) -> Table:
    flat = [row for image in rows for row in image]
    return Table(
        boxes=np.array([row[:4] for row in flat], dtype=np.float32).reshape(-1, 4),
        labels=np.array([row[4] for row in flat], dtype=np.int64),
        crowd=np.array([row[5] for row in flat], dtype=np.bool_),
        starts=np.array([0, *accumulate(len(image) for image in rows)], dtype=np.int64),
        segments=segments,
        dropped=dropped,
        clipped=cut,
    )


def _image_problem(entry: Entry, infos: dict[int, ImageInfo], folder: ImageFolder) -> str | None:
    problem = image_flaw(entry)
    if problem is not None:
        return problem
    if entry["id"] in infos:
        return "this id is used twice"
    if stated_size(entry) is None:
        return "its width and height must be positive integers"
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
