"""The ground truth of an evaluation: an annotation file in COCO format, read into columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codetr.data.annotations import AnnotationFile
from codetr.errors import UserError
from codetr.evaluation.federated import Federated, read_federated
from codetr.evaluation.files import read_json

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64] | npt.NDArray[np.float64]


def numbers(values: Sequence[Any], *, width: int) -> Numbers | None:
    """Values from a JSON file as (N, width) finite numbers, whole ones exact; None if one is anything else."""
    try:
        array = np.array(values)
    except ValueError:  # lists of different lengths
        return None
    if not values:
        return np.empty((0, width))
    shape = (len(values), width) if width > 1 else (len(values),)
    if array.dtype.kind not in "if" or array.shape != shape or not np.isfinite(array).all():
        return None
    return array.reshape(-1, width)


def distinct_names(names: Sequence[str], ids: Sequence[int]) -> tuple[str, ...]:
    """Names that tell categories apart: with the id where two share a name or one has none."""
    counts = Counter(names)
    pairs = zip(names, ids, strict=True)
    return tuple(name if name and counts[name] == 1 else f"{name} ({key})".strip() for name, key in pairs)


@dataclass(frozen=True)
class GroundTruth:
    """Images, categories and annotations of one file; nothing of the file itself is kept or changed.

    file: for messages. image_ids: (I,) ascending. image_sizes: (I, 2) height, width; 0 where the file has none.
    category_ids: (K,) ascending. names: K names in that order.
    image_index, category_index: (G,) position of each annotation in the above. boxes: (G, 4) xywh pixels.
    areas: (G,) square pixels, as annotated. crowd: (G,) bool. segmentations: G polygons or RLEs, None where absent.
    federated: the fields of LVIS, None if the file has none.
    """

    file: str
    image_ids: Ints
    image_sizes: Ints
    category_ids: Ints
    names: tuple[str, ...]
    image_index: Ints
    category_index: Ints
    boxes: Floats
    areas: Floats
    crowd: npt.NDArray[np.bool_]
    segmentations: tuple[Any, ...]
    federated: Federated | None = None

    @property
    def is_federated(self) -> bool:
        """True for an LVIS file: each image was searched for some of the classes only."""
        return self.federated is not None

    @property
    def has_masks(self) -> bool:
        """True if masks can be evaluated: every annotation has one, and every image a size."""
        return None not in self.segmentations and bool(self.image_sizes.all())

    @classmethod
    def load(cls, file: Path | str) -> GroundTruth:
        """Read an annotation file.

        Raises:
            UserError: the file is no annotation file, or an annotation lacks a box, or names an unknown id.
        """
        content = read_json(Path(file), what="annotation file")
        return cls.parse(content, file=str(file))

    @classmethod
    def of(cls, file: AnnotationFile) -> GroundTruth:
        """The same from what any reader of annotations returns.

        Raises:
            UserError: as `load`.
        """
        content = {"images": file.images, "categories": file.categories, "annotations": file.annotations}
        return cls.parse(content, file=str(file.path))

    @classmethod
    def parse(cls, content: Any, *, file: str) -> GroundTruth:
        """The same from a parsed file."""
        images, categories, annotations = _sections(content, file)
        image_ids, order = _ids(images, "image", file)
        sizes = [(images[i].get("height") or 0, images[i].get("width") or 0) for i in order]
        category_ids, category_order = _ids(categories, "category", file)
        boxes = _boxes(annotations, file)
        return cls(
            file=file,
            image_ids=image_ids,
            image_sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
            category_ids=category_ids,
            names=distinct_names([str(categories[i].get("name", "")) for i in category_order], category_ids.tolist()),
            image_index=_positions(annotations, "image_id", image_ids, file),
            category_index=_positions(annotations, "category_id", category_ids, file),
            boxes=boxes,
            areas=_areas(annotations, boxes, file),
            crowd=np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=np.bool_),
            segmentations=tuple(a.get("segmentation") or None for a in annotations),
            federated=read_federated(
                [images[i] for i in order], [categories[i] for i in category_order], category_ids, file
            ),
        )

    def objects(self, *, crowds: bool = False) -> list[int]:
        """How many objects are to be found of each class. crowds: count crowd regions, which are none in COCO."""
        kept = self.category_index if crowds else self.category_index[~self.crowd]
        counts: list[int] = np.bincount(kept, minlength=len(self.names)).tolist()
        return counts

    def ids_of(self, classes: Sequence[str], category_ids: Sequence[int]) -> tuple[int, ...]:
        """The category id in this file of each class of a model, found by name.

        classes, category_ids: the model's, in order of its class index.

        Raises:
            UserError: the model's classes and the file's categories differ.
        """
        wanted = distinct_names(classes, category_ids)
        known = dict(zip(self.names, self.category_ids.tolist(), strict=True))
        absent, new = sorted(set(wanted) - set(known)), sorted(set(known) - set(wanted))
        if absent or new:
            parts = ((absent, "only the model knows"), (new, "only the data set has"))
            differences = "; ".join(f"{what} {_some(names)}" for names, what in parts if names)
            raise UserError(
                f"{self.file}: the data set has {len(known)} classes and the model was trained on {len(wanted)}: "
                f"{differences}. Evaluate on a data set with the model's classes, or train a model on this one."
            )
        return tuple(known[name] for name in wanted)

    def require_masks(self) -> None:
        """Check that masks can be evaluated.

        Raises:
            UserError: an annotation has no segmentation, or an image no size.
        """
        bare = [index for index, value in enumerate(self.segmentations) if value is None]
        if bare:
            raise UserError(
                f"{self.file}: {len(bare)} of {len(self.segmentations)} annotations have no `segmentation` (the first "
                f"is annotations[{bare[0]}]), so masks cannot be evaluated. Use --iou-type bbox."
            )
        if not self.image_sizes.all():
            unknown = self.image_ids[~self.image_sizes.all(axis=1)]
            raise UserError(
                f"{self.file}: image {unknown[0]} has no `height` and `width`, which masks need. Add them, or use "
                "--iou-type bbox."
            )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _sections(content: Any, file: str) -> tuple[list[Any], list[Any], list[Any]]:
    if isinstance(content, list):
        raise UserError(
            f"{file}: this is a list, as a results file is; an annotation file is an object with `images`, "
            "`annotations` and `categories`. Pass results as --predictions and the data set's file as --annotations."
        )
    keys = ("images", "categories", "annotations")
    missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise UserError(
            f"{file}: an annotation file in COCO format has the lists `images`, `annotations` and `categories`; here "
            f"{' and '.join(f'`{key}`' for key in missing)} {'is' if len(missing) == 1 else 'are'} missing."
        )
    images, categories, annotations = (content[key] for key in keys)
    for key, entries in (("images", images), ("categories", categories), ("annotations", annotations)):
        wrong = [index for index, entry in enumerate(entries) if not isinstance(entry, dict)]
        if wrong:
            raise UserError(f"{file}: {key}[{wrong[0]}] is not an object.")
    if not images or not categories:
        raise UserError(
            f"{file}: there are no {'images' if not images else 'categories'}, so there is nothing to score."
        )
    return images, categories, annotations


def _ids(entries: Sequence[dict[str, Any]], kind: str, file: str) -> tuple[Ints, list[int]]:
    """Ascending ids, and the position in `entries` of each."""
    ids = [entry.get("id") for entry in entries]
    wrong = next((value for value in ids if not isinstance(value, int)), 0)
    if not isinstance(wrong, int):
        raise UserError(f"{file}: {wrong!r} is not a valid {kind} id. Ids are whole numbers.")
    values = np.array(ids, dtype=np.int64)
    order = np.argsort(values, kind="stable")
    values = values[order]
    repeated = values[1:][values[1:] == values[:-1]]
    if len(repeated):
        raise UserError(
            f"{file}: {kind} id {repeated[0]} occurs more than once. Run `codetr data check` on the data set."
        )
    return values, order.tolist()


def _positions(annotations: Sequence[dict[str, Any]], key: str, known: Ints, file: str) -> Ints:
    table = {value: index for index, value in enumerate(known.tolist())}
    try:
        return np.array([table[annotation[key]] for annotation in annotations], dtype=np.int64)
    except (KeyError, TypeError):
        pass
    bad = next(a for a in annotations if not isinstance(a.get(key), int) or a[key] not in table)
    kind = key.removesuffix("_id")
    raise UserError(
        f"{file}: annotation {bad.get('id')} names {kind} {bad.get(key)!r}, which the file does not have (its {kind} "
        f"ids run from {known[0]} to {known[-1]}). Run `codetr data check DIR --fix OUT` on the data set."
    )


def _boxes(annotations: Sequence[dict[str, Any]], file: str) -> Floats:
    boxes = numbers([annotation.get("bbox") for annotation in annotations], width=4)
    if boxes is None:
        bad = next(a for a in annotations if not _is_box(a.get("bbox")))
        raise UserError(
            f"{file}: annotation {bad.get('id')} has the box {bad.get('bbox')!r}; a box is [x, y, width, height] in "
            "pixels. Run `codetr data check DIR --fix OUT` on the data set."
        )
    return boxes.astype(np.float64)


def _is_box(value: Any) -> bool:
    return numbers([value], width=4) is not None


def _areas(annotations: Sequence[dict[str, Any]], boxes: Floats, file: str) -> Floats:
    """As annotated, the box's where the file gives none."""
    given = [annotation.get("area") for annotation in annotations]
    products = (boxes[:, 2] * boxes[:, 3]).tolist()
    values = [product if area is None else area for area, product in zip(given, products, strict=True)]
    areas = numbers(values, width=1)
    if areas is None:
        index = next(i for i, value in enumerate(values) if numbers([value], width=1) is None)
        raise UserError(
            f"{file}: annotation {annotations[index].get('id')} has the area {values[index]!r}; an area is a number of "
            "square pixels. Correct it, or leave it out for the box's."
        )
    return areas[:, 0].astype(np.float64)
