"""Reads a data set in COCO format: contiguous labels, boxes clipped to the image, crowd regions kept apart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from codetr.data.annotations import AnnotationFile, ImageFolder, read_annotations
from codetr.data.compact import Infos, Rows
from codetr.data.config import MAX_PIXELS, DataConfig
from codetr.data.counted_classes import not_exhaustive_labels
from codetr.data.images import TURNED, BadImage, decode, image_size, orientation, read_bytes, reduction
from codetr.data.index import NAMED, read_categories, read_infos, read_table, size_problem
from codetr.data.layout import SplitName, open_annotations
from codetr.data.masks import decode_masks
from codetr.data.prepare import prepare
from codetr.data.shards import open_shards
from codetr.errors import UserError
from codetr.structures import ImageInfo


@dataclass(frozen=True)
class Sample:
    """One image and its annotations, not yet batched. A very large image is smaller than `info.size` says already.

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
    """An annotation file and its image folder, which may be one of shards.

    classes, category_ids: names and ids by contiguous label, in ascending category id. infos: one for each image, in
    the file's order, images without boxes included. dropped, clipped: how many boxes were left out because they are
    empty or outside the image, and how many were cut at its border.

    Raises: UserError, naming the file and the image or annotation id, for an entry that cannot be used: an unknown
    image or category, an id used twice, a file name that leaves the folder, a missing image file.
    """

    def __init__(
        self,
        annotations: Path | AnnotationFile,
        images: Path,
        *,
        masks: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        file = annotations if isinstance(annotations, AnnotationFile) else read_annotations(annotations)
        names = read_categories(file)
        self.annotations = file.path
        self.images = images
        self.max_pixels = max_pixels
        self.category_ids = tuple(names)
        self.classes = tuple(names.values())
        self._shards = open_shards(images)
        infos = read_infos(file, ImageFolder(images) if self._shards is None else self._shards)
        self.infos = Infos(infos)
        self._table = read_table(file, infos, self.category_ids, masks=masks)
        if self._table.segments is not None:
            self._table = replace(self._table, segments=Rows(self._table.segments))
        self.dropped = self._table.dropped
        self.clipped = self._table.clipped
        self.not_exhaustive = not_exhaustive_labels(file.images, self.category_ids)

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> Sample:
        """One image, decoded. Raises: BadImage if it is truncated, undecodable, or of another size than stated."""
        info = self.infos[index]
        content = self.read(info)
        pixels = decode(content, Path(info.file), max_pixels=self.max_pixels)
        image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        size = (image.shape[1], image.shape[2])
        factor = reduction(info.size, self.max_pixels)
        if size != (-(-info.size[0] // factor), -(-info.size[1] // factor)):
            stored = image_size(Path(info.file), content)
            turned = stored == info.size[::-1] and orientation(content) in TURNED
            raise BadImage(size_problem(self.annotations, info, stored, is_turned=turned))
        rows = slice(int(self._table.starts[index]), int(self._table.starts[index + 1]))
        crowd = torch.from_numpy(self._table.crowd[rows])
        boxes = torch.from_numpy(self._table.boxes[rows])
        if size != info.size:
            boxes = boxes * torch.tensor([size[1] / info.size[1], size[0] / info.size[0]]).repeat(2)
        labels = torch.from_numpy(self._table.labels[rows])
        return Sample(image, boxes[~crowd], labels[~crowd], boxes[crowd], self._masks(rows, info, size), info)

    def read(self, info: ImageInfo) -> bytes:
        """The bytes of an image file, from its folder or its shard. Raises: BadImage if they cannot be read."""
        return read_bytes(Path(info.file)) if self._shards is None else self._shards.read(info.file)

    def shard_numbers(self) -> list[int] | None:
        """The shard of every image, or None if the images are files."""
        return None if self._shards is None else [self._shards.shard_of(info.file) for info in self.infos]

    def aspect_ratios(self) -> list[float]:
        """Width over height of every image."""
        found: list[float] = (self.infos.sizes[:, 1] / self.infos.sizes[:, 0]).tolist()
        return found

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

    def objects(self, index: int) -> tuple[Tensor, Tensor]:
        """Boxes (G, 4) xyxy in pixels of the file and labels (G,) of an image, crowd regions left out."""
        rows = slice(int(self._table.starts[index]), int(self._table.starts[index + 1]))
        keep = ~self._table.crowd[rows]
        return torch.from_numpy(self._table.boxes[rows][keep]), torch.from_numpy(self._table.labels[rows][keep])

    def image_classes(self) -> list[list[int]]:
        """The labels of the objects of every image, crowd regions left out."""
        starts, labels, crowd = self._table.starts.tolist(), self._table.labels, self._table.crowd
        return [labels[a:b][~crowd[a:b]].tolist() for a, b in pairwise(starts)]

    def _masks(self, rows: slice, info: ImageInfo, size: tuple[int, int]) -> Tensor | None:
        if self._table.segments is None:
            return None
        pairs = zip(self._table.segments[rows], self._table.crowd[rows], strict=True)
        return decode_masks([segment for segment, is_region in pairs if not is_region], info, self.annotations, size)


def open_split(config: DataConfig, split: SplitName) -> CocoDataset:
    """The data set of a split, rendered first if it is a synthetic one. Raises: UserError if it cannot be used."""
    prepare(config)
    file, images = open_annotations(config, split)
    return CocoDataset(file, images, masks=config.masks, max_pixels=config.max_pixels)


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
