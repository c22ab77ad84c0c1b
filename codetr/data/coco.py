"""Reads a data set in COCO format: contiguous labels, boxes clipped to the image, crowd regions kept apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from codetr.data.annotations import AnnotationFile, ImageFolder, read_annotations
from codetr.data.config import DataConfig
from codetr.data.images import BadImage, is_turned, load_image
from codetr.data.index import NAMED, read_categories, read_infos, read_table, size_problem
from codetr.data.layout import SplitName, open_annotations
from codetr.data.masks import decode_masks
from codetr.data.prepare import prepare
from codetr.errors import UserError
from codetr.structures import ImageInfo


@dataclass(frozen=True)
class Sample:
    """One image and its annotations, not yet batched.

    image: (3, H, W), uint8 as read, normalised float once transformed. boxes: (G, 4) float, xyxy in pixels of `image`.
    labels: (G,) int64, contiguous. ignore_boxes: (I, 4), crowd regions. masks: (G, H, W) bool, or None.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    ignore_boxes: Tensor
    masks: Tensor | None
    info: ImageInfo


class CocoDataset(Dataset[Sample]):
    """An annotation file and its image folder.

    classes, category_ids: names and ids by contiguous label, in ascending category id. infos: one for each image, in
    the file's order, images without boxes included. dropped, clipped: how many boxes were left out because they are
    empty or outside the image, and how many were cut at its border.

    Raises: UserError, naming the file and the image or annotation id, for an entry that cannot be used: an unknown
    image or category, an id used twice, a file name that leaves the folder, a missing image file.
    """

    def __init__(self, annotations: Path | AnnotationFile, images: Path, *, masks: bool = False) -> None:
        file = annotations if isinstance(annotations, AnnotationFile) else read_annotations(annotations)
        names = read_categories(file)
        self.annotations = file.path
        self.images = images
        self.category_ids = tuple(names)
        self.classes = tuple(names.values())
        self.infos = read_infos(file, ImageFolder(images))
        self._table = read_table(file, self.infos, self.category_ids, masks=masks)
        self.dropped = self._table.dropped
        self.clipped = self._table.clipped

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> Sample:
        """One image, decoded. Raises: BadImage if it is truncated, undecodable, or of another size than stated."""
        info = self.infos[index]
        image = load_image(Path(info.file))
        size = (image.shape[1], image.shape[2])
        if size != info.size:
            turned = size == info.size[::-1] and is_turned(Path(info.file))
            raise BadImage(size_problem(self.annotations, info, size, is_turned=turned))
        rows = slice(int(self._table.starts[index]), int(self._table.starts[index + 1]))
        crowd = torch.from_numpy(self._table.crowd[rows])
        boxes = torch.from_numpy(self._table.boxes[rows])
        labels = torch.from_numpy(self._table.labels[rows])
        return Sample(image, boxes[~crowd], labels[~crowd], boxes[crowd], self._masks(rows, info), info)

    def aspect_ratios(self) -> list[float]:
        """Width over height of every image."""
        return [info.size[1] / info.size[0] for info in self.infos]

    def object_counts(self) -> list[int]:
        """Number of objects of every image, crowd regions left out."""
        crowd = np.concatenate([[0], np.cumsum(self._table.crowd)])
        ends = self._table.starts
        found: list[int] = (np.diff(ends) - np.diff(crowd[ends])).tolist()
        return found

    def class_counts(self) -> list[int]:
        """Number of objects of every class, by contiguous label, crowd regions left out."""
        found: list[int] = np.bincount(self._table.labels[~self._table.crowd], minlength=len(self.classes)).tolist()
        return found

    def _masks(self, rows: slice, info: ImageInfo) -> Tensor | None:
        if self._table.segments is None:
            return None
        pairs = zip(self._table.segments[rows], self._table.crowd[rows], strict=True)
        return decode_masks([segment for segment, is_region in pairs if not is_region], info, self.annotations)


def open_split(config: DataConfig, split: SplitName) -> CocoDataset:
    """The data set of a split, rendered first if it is a synthetic one. Raises: UserError if it cannot be used."""
    prepare(config)
    file, images = open_annotations(config, split)
    return CocoDataset(file, images, masks=config.masks)


def require_same_classes(train: CocoDataset, val: CocoDataset) -> None:
    """Compares the categories of two splits.

    Raises: UserError if they differ, since a label of one would then mean another class in the other.
    """
    ours = set(zip(train.category_ids, train.classes, strict=True))
    theirs = set(zip(val.category_ids, val.classes, strict=True))
    apart = sorted(ours ^ theirs)
    if apart:
        named = ", ".join(f"{identity} {name!r}" for identity, name in apart[:NAMED])
        raise UserError(
            f"{val.annotations}: its categories differ from those of {train.annotations} ({len(apart)}: {named}); "
            "both files must list the same ids with the same names"
        )
