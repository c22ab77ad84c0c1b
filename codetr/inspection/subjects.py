"""The image that is inspected: one of an annotation file, or a rendered scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from codetr.data.annotations import AnnotationFile, Entry, ImageFolder, image_flaw, read_annotations
from codetr.data.coco import CocoDataset, Sample
from codetr.data.scene import compose
from codetr.errors import UserError, nearest
from codetr.structures import ImageInfo

_SCENE_SIDE = 320
_SCENE_OBJECTS = (4, 10)


def open_image(image: Path, annotations: Path) -> tuple[Sample, CocoDataset]:
    """An image with its annotations, and the data set of it alone, which knows all the classes.

    Of the entries of the file the one is meant whose `file_name` the path ends with; what comes before that is the
    image folder, which no file name may leave.
    Raises: UserError if there is no such file or entry, or it cannot be used.
    """
    file = read_annotations(annotations)
    if not image.is_file():
        raise UserError(f"{image}: there is no such image")
    entry, folder = _entry_of(image, file)
    own = [found for found in file.annotations if found.get("image_id") == entry["id"]]
    dataset = CocoDataset(AnnotationFile(file.path, [entry], own, file.categories, file.extra), folder)
    return dataset[0], dataset


def _entry_of(image: Path, file: AnnotationFile) -> tuple[Entry, Path]:
    """The entry of an image, the longest name that fits, and the folder that its name starts from."""
    parts = image.absolute().parts
    best: tuple[int, Entry] | None = None
    usable = [entry for entry in file.images if image_flaw(entry) is None]
    for entry in usable:
        own = PurePosixPath(entry["file_name"]).parts
        if parts[-len(own) :] == own and len(own) < len(parts) and (best is None or len(own) > best[0]):
            best = len(own), entry
    if best is None:
        close = nearest(image.name, [entry["file_name"] for entry in usable])
        hint = f"; did you mean {close!r}?" if close else ""
        raise UserError(f"{file.path}: no image of this file is {image}{hint}")
    folder = Path(*parts[: -best[0]])
    if ImageFolder(folder).leaves(best[1]["file_name"]):
        raise UserError(f"{file.path}: image id {best[1]['id']}: {best[1]['file_name']!r} leads out of {folder}")
    return best[1], folder


def with_labels_of(sample: Sample, dataset: CocoDataset, classes: Sequence[str], *, source: str) -> Sample:
    """The sample with the labels of a detector's classes, found by name.

    Raises: UserError if the detector lacks a class of the image.
    """
    wanted = sorted({dataset.classes[label] for label in sample.labels.tolist()})
    missing = [name for name in wanted if name not in classes]
    if missing:
        raise UserError(f"{source}: it does not know {', '.join(map(repr, missing))}, which the image has")
    labels = [list(classes).index(dataset.classes[label]) for label in sample.labels.tolist()]
    return replace(sample, labels=torch.tensor(labels, dtype=torch.int64))


def render_scene(seed: int, *, num_classes: int) -> Sample:
    """A rendered scene of four to ten objects."""
    scene = compose(np.random.default_rng(seed), _SCENE_SIDE, objects=_SCENE_OBJECTS, clutter=1.0, crowd=False)
    boxes = [_box(item.mask) for item in scene.objects]
    labels = [item.label % num_classes for item in scene.objects]
    return Sample(
        torch.from_numpy(scene.pixels).permute(2, 0, 1).contiguous(),
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.zeros(0, 4),
        torch.from_numpy(np.array([item.mask for item in scene.objects], bool).reshape(-1, _SCENE_SIDE, _SCENE_SIDE)),
        ImageInfo(seed, f"scene {seed}", (_SCENE_SIDE, _SCENE_SIDE)),
    )


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
