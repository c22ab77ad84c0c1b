"""Detections as the evaluators take them, and the standard COCO results file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pycocotools import mask

from codetr.errors import UserError
from codetr.evaluation.files import write_json
from codetr.evaluation.results_file import read_columns
from codetr.evaluation.truth import Floats, GroundTruth, Ints

if TYPE_CHECKING:  # reading a results file needs no torch
    from torch import Tensor

    from codetr.structures import Detections

IouType = Literal["bbox", "segm"]


@dataclass(frozen=True)
class Results:
    """Detections of any number of images, in columns of N.

    file: for messages. image_ids, category_ids: (N,) as in the annotation file. boxes: (N, 4) xywh pixels.
    scores: (N,). segmentations: N compressed RLEs where masks are evaluated, else None.
    """

    file: str
    image_ids: Ints
    category_ids: Ints
    boxes: Floats
    scores: Floats
    segmentations: tuple[Any, ...] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def of(cls, rows: Floats, *, file: str = "detections") -> Results:
        """From rows of (image id, x, y, w, h, score, category id), which are exact for ids below 2^53."""
        rows = rows.reshape(-1, 7)
        return cls(file, rows[:, 0].astype(np.int64), rows[:, 6].astype(np.int64), rows[:, 1:5], rows[:, 5])

    @classmethod
    def joined(cls, parts: Sequence[Results], *, file: str = "detections") -> Results:
        """Those of several images in one; with masks if all of them have masks."""
        rows = np.concatenate([np.empty((0, 7)), *(part.rows() for part in parts)])
        masks = [part.segmentations for part in parts if part.segmentations is not None]
        complete = len(masks) == len(parts) > 0
        return replace(cls.of(rows, file=file), segmentations=tuple(chain(*masks)) if complete else None)

    def rows(self) -> Floats:
        """The boxes as (N, 7), the inverse of `of`."""
        return np.column_stack([self.image_ids, self.boxes, self.scores, self.category_ids]).astype(np.float64)

    def take(self, rows: Ints) -> Results:
        """Some of the detections, in the order of their numbers."""
        columns = (self.image_ids[rows], self.category_ids[rows], self.boxes[rows], self.scores[rows])
        masks = None if self.segmentations is None else tuple(self.segmentations[row] for row in rows.tolist())
        return Results(self.file, *columns, masks)

    def positions(self, truth: GroundTruth) -> tuple[Ints, Ints]:
        """Position in `truth` of each detection's image and of its category.

        Raises:
            UserError: an image id or a category id is not in the ground truth.
        """
        return (
            _positions(self, self.image_ids, truth.image_ids, "image", truth.file),
            _positions(self, self.category_ids, truth.category_ids, "category", truth.file),
        )

    def areas(self, truth: GroundTruth) -> Floats:
        """(N,) square pixels: of the boxes, or of the masks where there are any.

        Raises:
            UserError: a mask is damaged, or has not the size of its image.
        """
        if self.segmentations is None:
            return self.boxes[:, 2] * self.boxes[:, 3]
        sizes = truth.image_sizes[self.positions(truth)[0]].tolist()
        areas = [float(mask.area(segmentation)) for segmentation in self.segmentations]
        for index, (segmentation, size, area) in enumerate(zip(self.segmentations, sizes, areas, strict=True)):
            if segmentation["size"] != size:
                found, wanted = (f"{height} x {width}" for height, width in (segmentation["size"], size))
                image = self.image_ids[index]
                raise UserError(
                    f"{self.file}: entry {index} has a mask of {found} (height x width), but image {image} is "
                    f"{wanted}. Masks are in pixels of the image file."
                )
            if area > size[0] * size[1]:
                raise UserError(
                    f"{self.file}: entry {index} has a damaged mask, larger than its image. Write it again."
                )
        return np.array(areas)


def _positions(results: Results, ids: Ints, known: Ints, kind: str, file: str) -> Ints:
    index = np.searchsorted(known, ids).clip(max=len(known) - 1)
    unknown = np.unique(ids[known[index] != ids])
    if len(unknown):
        some = ", ".join(str(value) for value in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        entries = int((known[index] != ids).sum())
        cure = {
            "image": "Score a results file against the annotations of the images that it was made from.",
            "category": "Results carry the category ids of the annotation file, not contiguous class indices.",
        }[kind]
        raise UserError(
            f"{results.file}: {entries} of {len(ids)} detections name {kind} ids that {file} does not have: {some} "
            f"(it has {len(known)}, from {known[0]} to {known[-1]}). {cure}"
        )
    return index.astype(np.int64)


def detection_rows(image_id: int, detections: Detections, category_ids: Sequence[int]) -> Floats:
    """Rows of (image id, x, y, w, h, score, category id) of one image; boxes in pixels of the image file."""
    boxes = detections.boxes.detach().cpu().double().numpy()
    labels = detections.labels.cpu().numpy()
    rows = np.empty((len(boxes), 7))
    rows[:, 0] = image_id
    rows[:, 1:3] = boxes[:, :2]
    rows[:, 3:5] = boxes[:, 2:] - boxes[:, :2]
    rows[:, 5] = detections.scores.detach().cpu().double().numpy()
    rows[:, 6] = np.asarray(category_ids, dtype=np.float64)[labels]
    return rows


def image_results(
    image_id: int, detections: Detections, category_ids: Sequence[int], *, size: tuple[int, int] | None = None
) -> Results:
    """Results of one image; boxes in pixels of the image file, whose `size` (height, width) crops of masks need."""
    results = Results.of(detection_rows(image_id, detections, category_ids))
    if detections.masks is None and (detections.mask_crops is None or size is None):
        return results
    return replace(results, segmentations=tuple(_segmentations(detections, size)))


def _segmentations(detections: Detections, size: tuple[int, int] | None) -> Iterator[dict[str, Any]]:
    """Compressed RLEs. Pixels are made in portions, and column by column, as RLE runs."""
    from codetr.ops.masks import paste_masks, portions

    if detections.masks is not None:
        for mask_of_one in detections.masks:
            yield from _encoded(mask_of_one.T.contiguous()[None])
        return
    assert detections.mask_crops is not None and size is not None
    turned = detections.boxes[:, [1, 0, 3, 2]]
    for few in portions(len(turned), size):
        crops = detections.mask_crops[few].transpose(1, 2)
        yield from _encoded(paste_masks(crops, turned[few], (size[1], size[0])))


def _encoded(columns: Tensor) -> list[dict[str, Any]]:
    """RLEs of masks (D, W, H) bool, which are laid out as those (H, W, D) in Fortran's order."""
    codes = mask.encode(columns.cpu().numpy().astype(np.uint8).transpose(2, 1, 0))
    return [{"size": list(code["size"]), "counts": code["counts"].decode("ascii")} for code in codes]


def collect(found: Iterable[tuple[int, Detections]], category_ids: Sequence[int]) -> Results:
    """Results of (image id, its detections in pixels of the image file); with masks if all of them have masks."""
    return Results.joined([image_results(image_id, detections, category_ids) for image_id, detections in found])


def write_results(file: Path | str, results: Results) -> None:
    """Save boxes, and masks if there are any, as a standard COCO results file.

    Numbers are written exactly, so the file scores as `results` does.
    """
    columns = (results.image_ids, results.category_ids, results.boxes, results.scores)
    keys = ("image_id", "category_id", "bbox", "score")
    entries = [dict(zip(keys, row, strict=True)) for row in zip(*(column.tolist() for column in columns), strict=True)]
    for entry, segmentation in zip(entries, results.segmentations or (), strict=False):
        entry["segmentation"] = segmentation
    write_json(Path(file), entries)


def read_results(file: Path | str, *, iou_type: IouType = "bbox") -> Results:
    """Read a COCO results file: a list of detections, or an object whose `annotations` all carry a score.

    For `segm` the boxes of the file are left aside: a detection's area is that of its mask.

    Raises:
        UserError: the file is no results file, or an entry lacks a field or has a value of the wrong kind.
    """
    found = read_columns(Path(file), with_masks=iou_type == "segm")
    return Results(str(file), found.image_ids, found.category_ids, found.boxes, found.scores, found.masks)
