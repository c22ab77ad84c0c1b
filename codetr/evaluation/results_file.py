"""A COCO results file read in portions: files of LVIS hold millions of detections, too many to be objects at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from codetr.errors import UserError
from codetr.evaluation.files import read_json
from codetr.evaluation.truth import Floats, Ints, Numbers, numbers

Entry = dict[str, Any]
_PORTION = 1 << 20  # bytes; larger ones are slower, as their objects leave the processor's cache
_BETWEEN = re.compile(rb"\}\s*,\s*\{\Z")
_SPACE = 64  # bytes looked at for what comes before an entry; more blanks only make a portion larger
_FORMS = {
    "image_id": "a whole number",
    "category_id": "a whole number",
    "bbox": "[x, y, width, height] in pixels, width and height not negative",
    "score": "a number",
}


@dataclass(frozen=True)
class Columns:
    """The fields of N detections: ids (N,), boxes (N, 4) and scores (N,); N masks, or None if they were not wanted."""

    image_ids: Ints
    category_ids: Ints
    boxes: Floats
    scores: Floats
    masks: tuple[Entry, ...] | None


def read_columns(file: Path, *, with_masks: bool) -> Columns:
    """Read a list of detections, or an object whose `annotations` all carry a score; masks instead of boxes if wanted.

    Raises:
        UserError: the file is no results file, or an entry lacks a field or has a value of the wrong kind.
    """
    try:
        with file.open("rb") as stream:
            return _joined(_portions(stream), str(file), with_masks=with_masks)
    except (OSError, ValueError):  # not a list that can be taken apart; read as a whole, it has a message
        entries = _entries(read_json(file, what="results file"), str(file))
        return _joined([entries], str(file), with_masks=with_masks)


def _portions(stream: BinaryIO) -> Iterator[list[Any]]:
    """The entries of a list, some at a time. A portion ends where an object is followed by a comma and another one.

    If that was inside of an entry, or the file is no list, the brackets of the portion do not match: ValueError.
    """
    head, rest = b"", b""
    while block := stream.read(_PORTION):
        text = rest + block
        end = _last_entry(text)
        if end is None:
            rest = text
            continue
        yield _list(json.loads(head + text[: text.rindex(b"}", 0, end) + 1] + b"]"))
        head, rest = b"[", text[end:]
    yield _list(json.loads(head + rest))


def _last_entry(text: bytes) -> int | None:
    """Where the last object after another one begins."""
    end = text.rfind(b"{")
    while end > 0:
        if _BETWEEN.search(text, max(0, end - _SPACE), end + 1):
            return end
        end = text.rfind(b"{", 0, end)
    return None


def _list(content: Any) -> list[Any]:
    if not isinstance(content, list):
        raise ValueError("not a list")
    return content


def _joined(portions: Iterable[list[Any]], file: str, *, with_masks: bool) -> Columns:
    parts: list[Columns] = []
    first = 0
    for entries in portions:
        parts.append(_columns(entries, first, file, with_masks=with_masks))
        first += len(entries)
    return Columns(
        np.concatenate([part.image_ids for part in parts]),
        np.concatenate([part.category_ids for part in parts]),
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        tuple(chain(*(part.masks or () for part in parts))) if with_masks else None,
    )


def _columns(entries: Sequence[Any], first: int, file: str, *, with_masks: bool) -> Columns:
    """first: the number of the first entry in the file."""
    wrong = next((index for index, entry in enumerate(entries) if not isinstance(entry, dict)), None)
    if wrong is not None:
        raise UserError(f"{file}: entry {first + wrong} is {_kind(entries[wrong])}; each detection is an object.")
    masks = None
    if with_masks:
        boxes = np.zeros((len(entries), 4))
        masks = tuple(_mask(number, entry, file) for number, entry in enumerate(entries, start=first))
    else:
        boxes = _column(entries, "bbox", first, file).astype(np.float64)
    return Columns(
        image_ids=_column(entries, "image_id", first, file).astype(np.int64),
        category_ids=_column(entries, "category_id", first, file).astype(np.int64),
        boxes=boxes,
        scores=_column(entries, "score", first, file).astype(np.float64),
        masks=masks,
    )


def _entries(content: Any, file: str) -> list[Any]:
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
    return content


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _column(entries: Sequence[Entry], key: str, first: int, file: str) -> Numbers:
    """Values of one field, checked as a whole, and one by one only to name the entry at fault."""
    values = _values([entry.get(key) for entry in entries], key)
    if values is None:
        index = next(i for i, entry in enumerate(entries) if _values([entry.get(key)], key) is None)
        found = f"has {key} {entries[index][key]!r}" if key in entries[index] else f"has no `{key}`"
        raise UserError(f"{file}: entry {first + index} {found}; it must be {_FORMS[key]}.")
    return values if key == "bbox" else values[:, 0]


def _values(raw: Sequence[Any], key: str) -> Numbers | None:
    """(N, 1), or (N, 4) for boxes; None if a value is not of the form that the field must have."""
    values = numbers(raw, width=4 if key == "bbox" else 1)
    if values is None or key == "score":
        return values
    valid = values[:, 2:] >= 0 if key == "bbox" else values == np.floor(values)
    return values if valid.all() else None


def _mask(number: int, entry: Entry, file: str) -> Entry:
    mask = entry.get("segmentation")
    if isinstance(mask, dict) and isinstance(mask.get("counts"), str) and _is_size(mask.get("size")):
        return mask
    problem = "has no `segmentation`" if mask is None else "has a segmentation that is not a compressed RLE"
    raise UserError(
        f"{file}: entry {number} {problem}; masks are {{'size': [height, width], 'counts': '...'}}. Use --iou-type "
        "bbox to score the boxes."
    )


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(number, int) for number in value)
