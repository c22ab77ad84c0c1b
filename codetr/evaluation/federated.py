"""What an LVIS file says beside COCO's lists: which classes each image was searched for, and how common they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codetr.errors import UserError

Ints = npt.NDArray[np.int64]
Entry = Mapping[str, Any]
NEGATIVE, NOT_EXHAUSTIVE = "neg_category_ids", "not_exhaustive_category_ids"
FREQUENCIES = ("r", "c", "f")
"""Rare, common and frequent: in at most 10, at most 100, and more training images."""


@dataclass(frozen=True)
class Federated:
    """Federated annotation (arXiv 1908.03195): each image was searched for some of the classes only.

    negative: (P, 2) image and class, both as positions in `GroundTruth`, of classes that the image does not show.
    not_exhaustive: (Q, 2) likewise, of classes that the image shows and of which not every object is annotated.
    frequencies: `r`, `c` or `f` of each of the K classes. image_counts: (K,) training images with it; -1 where the
    file does not say.
    """

    negative: Ints
    not_exhaustive: Ints
    frequencies: tuple[str, ...]
    image_counts: Ints


def read_federated(images: Sequence[Entry], categories: Sequence[Entry], known: Ints, file: str) -> Federated | None:
    """The LVIS fields of a file, None if its images have none of them.

    images, categories: in order of their ids. known: (K,) ids of the categories, ascending.

    Raises:
        UserError: a field is there in part or has values that it must not have.
    """
    if not any(NEGATIVE in image or NOT_EXHAUSTIVE in image for image in images):
        return None
    return Federated(
        negative=_pairs(images, NEGATIVE, known, file),
        not_exhaustive=_pairs(images, NOT_EXHAUSTIVE, known, file),
        frequencies=tuple(_frequency(category, file) for category in categories),
        image_counts=np.array([_image_count(category, file) for category in categories], dtype=np.int64),
    )


def _pairs(images: Sequence[Entry], key: str, known: Ints, file: str) -> Ints:
    table = {value: index for index, value in enumerate(known.tolist())}
    pairs: list[tuple[int, int]] = []
    for index, image in enumerate(images):
        ids = image.get(key)
        if not isinstance(ids, list):
            raise UserError(
                f"{file}: image {image.get('id')} has no list `{key}`, which images of an LVIS file have. Add it, "
                f"empty if need be, or remove `{NEGATIVE}` and `{NOT_EXHAUSTIVE}` from all images to use COCO's rules."
            )
        try:
            pairs += [(index, table[value]) for value in ids]
        except (KeyError, TypeError):
            unknown = next(value for value in ids if not isinstance(value, int) or value not in table)
            raise UserError(
                f"{file}: `{key}` of image {image.get('id')} names category {unknown!r}, which the file does not have "
                f"(its category ids run from {known[0]} to {known[-1]})."
            ) from None
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _frequency(category: Entry, file: str) -> str:
    value = category.get("frequency")
    if value not in FREQUENCIES:
        found = f"the frequency {value!r}" if "frequency" in category else "no `frequency`"
        raise UserError(
            f"{file}: category {category.get('id')} has {found}; a category of an LVIS file is 'r', 'c' or 'f': in at "
            "most 10, at most 100, or more training images."
        )
    return str(value)


def _image_count(category: Entry, file: str) -> int:
    value = category.get("image_count", -1)
    if type(value) is not int:
        raise UserError(f"{file}: category {category.get('id')} has the image_count {value!r}; it is a whole number.")
    return value
