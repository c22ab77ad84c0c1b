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
from codetr.evaluation.files import read_json, write_json
from codetr.evaluation.truth import Floats, GroundTruth, Ints, Numbers, numbers

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
    entries = _entries(read_json(Path(file), what="results file"), str(file))
    if iou_type == "segm":
        boxes, masks = np.zeros((len(entries), 4)), tuple(_mask(*pair, str(file)) for pair in enumerate(entries))
    else:
        boxes, masks = _column(entries, "bbox", str(file)).astype(np.float64), None
    return Results(
        file=str(file),
        image_ids=_column(entries, "image_id", str(file)).astype(np.int64),
        category_ids=_column(entries, "category_id", str(file)).astype(np.int64),
        boxes=boxes,
        scores=_column(entries, "score", str(file)).astype(np.float64),
        segmentations=masks,
    )


def _entries(content: Any, file: str) -> list[dict[str, Any]]:
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if isinstance(annotations, list):
        if not annotations or not all(isinstance(entry, dict) and "score" in entry for entry in annotations):
            raise UserError(
                f"{file}: this is a data set (its annotations have no scores), not a results file. Pass it as "
                "--annotations, and as --predictions a list of detections with image_id, category_id, bbox and score."
            )
        return annotations
    if not isinstance(content, list):
        raise UserError(
            f"{file}: a results file is a list of detections with image_id, category_id, bbox (or segmentation) and "
            f"score; this is {_kind(content)}. Write the list alone."
        )
    wrong = [index for index, entry in enumerate(content) if not isinstance(entry, dict)]
    if wrong:
        raise UserError(f"{file}: entry {wrong[0]} is {_kind(content[wrong[0]])}; each detection is an object.")
    return content


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


_FORMS = {
    "image_id": "a whole number",
    "category_id": "a whole number",
    "bbox": "[x, y, width, height] in pixels, width and height not negative",
    "score": "a number",
}


def _column(entries: Sequence[dict[str, Any]], key: str, file: str) -> Numbers:
    """Values of one field, checked as a whole, and one by one only to name the entry at fault."""
    values = _values([entry.get(key) for entry in entries], key)
    if values is None:
        index = next(i for i, entry in enumerate(entries) if _values([entry.get(key)], key) is None)
        found = f"has {key} {entries[index][key]!r}" if key in entries[index] else f"has no `{key}`"
        raise UserError(f"{file}: entry {index} {found}; it must be {_FORMS[key]}.")
    return values if key == "bbox" else values[:, 0]


def _values(raw: Sequence[Any], key: str) -> Numbers | None:
    """(N, 1), or (N, 4) for boxes; None if a value is not of the form that the field must have."""
    values = numbers(raw, width=4 if key == "bbox" else 1)
    if values is None or key == "score":
        return values
    valid = values[:, 2:] >= 0 if key == "bbox" else values == np.floor(values)
    return values if valid.all() else None


def _mask(index: int, entry: dict[str, Any], file: str) -> dict[str, Any]:
    mask = entry.get("segmentation")
    if isinstance(mask, dict) and isinstance(mask.get("counts"), str) and _is_size(mask.get("size")):
        return mask
    problem = "has no `segmentation`" if mask is None else "has a segmentation that is not a compressed RLE"
    raise UserError(
        f"{file}: entry {index} {problem}; masks are {{'size': [height, width], 'counts': '...'}}. Use --iou-type bbox "
        "to score the boxes."
    )


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(number, int) for number in value)
