"""A COCO annotation file as parsed JSON, and the rules that its entries obey. Imports no torch."""

from __future__ import annotations

import gc
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from codetr.errors import UserError

Entry = Mapping[str, Any]
Dialect = Literal["coco", "lvis", "objects365"]
LISTS = ("images", "annotations", "categories")
ROUNDING = 0.02  # px; coordinates are commonly written with two decimals
LIMIT = 1e9  # no image is as large; NaN, infinities and absurd integers all fail the comparison


@dataclass(frozen=True)
class AnnotationFile:
    """The three lists of a COCO annotation file, or what a reader of another layout made of it.

    path: the file, or the folder or list of labels, that messages name. extra: the other keys (info, licenses).
    dialect: the data set whose own fields the entries have: LVIS (`neg_category_ids`, `not_exhaustive_category_ids`,
    `frequency`) or Objects365 (`isfake`, `isreflected`). notes: what the reader left out or assumed, one sentence each.
    """

    path: Path
    images: list[Entry]
    annotations: list[Entry]
    categories: list[Entry]
    extra: dict[str, Any]
    dialect: Dialect = "coco"
    notes: tuple[str, ...] = ()


def read_annotations(path: Path) -> AnnotationFile:
    """Parses an annotation file; its entries are not looked at yet.

    Raises: UserError if the file cannot be read, is not JSON, or has not the three lists of objects.
    """
    content = _read_json(path)
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: a COCO annotation file is an object with {', '.join(LISTS)}; this is a list or a value"
        )
    for name in LISTS:
        value = content.get(name)
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            found = ", ".join(map(repr, content)) or "nothing"
            raise UserError(f"{path}: {name!r} must be a list of objects; the keys found are {found}")
    extra = {key: value for key, value in content.items() if key not in LISTS}
    images, annotations, categories = (content[name] for name in LISTS)
    return AnnotationFile(path, images, annotations, categories, extra, _dialect(images, annotations, categories))


def _read_json(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); data.dir or data.*.annotations names it"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file ({error}); a COCO annotation file is JSON in UTF-8") from error
    if not text.strip():
        raise UserError(f"{path}: the file is empty; download or export it again")
    try:
        with _no_collection():
            return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}:{error.colno}"
        raise UserError(f"{where}: not valid JSON ({error.msg}); the file may be incomplete") from error
    except (RecursionError, ValueError) as error:  # nested without end; an integer of thousands of digits
        raise UserError(f"{path}: no annotation file ({error})") from error


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without garbage collection, which would visit millions of new objects again and again: half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _dialect(images: list[Entry], annotations: list[Entry], categories: list[Entry]) -> Dialect:
    """Told by fields and names that no other data set has; a few entries show them."""
    if any("neg_category_ids" in entry for entry in images[:1]) or any("frequency" in e for e in categories[:1]):
        return "lvis"
    named = str(images[0].get("file_name", "")).rpartition("/")[2] if images else ""
    if named.startswith("objects365_v") or any("isreflected" in entry for entry in annotations[:1]):
        return "objects365"
    return "coco"


def is_id(value: object) -> bool:
    """True for an integer of 64 bits; JSON's true and false are none."""
    return type(value) is int and -(2**63) <= value < 2**63


def meant_id(value: object) -> int | None:
    """The id that a text such as "12" stands for, which some exporters write; None for anything else."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 19 else None


def id_flaw(key: str, value: object) -> str | None:
    """What makes an id unusable, or None."""
    if is_id(value):
        return None
    hint = "; `codetr data check DIR --fix OUT` writes numbers for such ids" if meant_id(value) is not None else ""
    size = " of at most 64 bits" if type(value) is int else ""
    return f"{key} must be an integer{size}, found {value!r}{hint}"


def image_flaw(entry: Entry) -> str | None:
    """What makes an image entry unusable, or None. Width and height are not looked at."""
    flaw = id_flaw("id", entry.get("id"))
    if flaw is None and (not isinstance(entry.get("file_name"), str) or not entry["file_name"]):
        flaw = f"file_name must be a text, found {entry.get('file_name')!r}"
    return flaw


def stated_size(entry: Entry) -> tuple[int, int] | None:
    """Height and width that an image entry states, or None if they are absent or not positive integers."""
    height, width = entry.get("height"), entry.get("width")
    return (height, width) if type(height) is int and type(width) is int and height > 0 and width > 0 else None


def annotation_flaw(entry: Entry) -> str | None:
    """What makes an annotation unusable whatever the other lists say, or None."""
    for key in ("id", "image_id", "category_id"):
        if not is_id(entry.get(key)):
            return id_flaw(key, entry.get(key))
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return f"bbox must be four finite numbers [x, y, width, height], found {box!r}"
    return None


def category_flaw(entry: Entry) -> str | None:
    """What makes a category unusable, or None."""
    flaw = id_flaw("id", entry.get("id"))
    if flaw is None and (not isinstance(entry.get("name"), str) or not entry["name"]):
        flaw = f"name must be a text, found {entry.get('name')!r}"
    return flaw


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and -LIMIT < value < LIMIT  # type: ignore[operator]


def clipped(box: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A COCO box [x, y, width, height] as corners x1, y1, x2, y2, clipped to an image of `size` (h, w)."""
    x, y, width, height = box
    return (
        min(max(x, 0.0), size[1]),
        min(max(y, 0.0), size[0]),
        min(max(x + width, 0.0), size[1]),
        min(max(y + height, 0.0), size[0]),
    )


def is_empty(box: list[float], size: tuple[int, int]) -> bool:
    """True if a COCO box has no area, or none inside an image of `size` (h, w)."""
    x1, y1, x2, y2 = clipped(box, size)
    return box[2] <= 0 or box[3] <= 0 or x2 <= x1 or y2 <= y1


def is_cut(box: list[float], size: tuple[int, int]) -> bool:
    """True if a COCO box crosses the border of an image of `size` (h, w) by more than rounding does."""
    x, y, width, height = box
    return min(x, y, size[1] - x - width, size[0] - y - height) < -ROUNDING


def is_crowd(entry: Entry) -> bool:
    """True for a crowd region, which is no object to be found. An absent `iscrowd` means no crowd."""
    return bool(entry.get("iscrowd", 0))


class ImageFolder:
    """Finds image files by the names in an annotation file, and never outside its folder.

    The folder itself may be a link; a name must be relative, free of `..`, and no link may lead out of the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real = os.path.realpath(root)
        self._parents: dict[str, bool] = {}  # few distinct ones; resolving one for every image would be slow

    def leaves(self, file_name: str) -> bool:
        """True if a name leads out of the folder."""
        parts = file_name.replace("\\", "/").split("/")
        if not parts[0] or ".." in parts or "\0" in file_name or os.path.isabs(file_name):
            return True
        path = os.path.join(self.root, file_name)
        parent = os.path.dirname(path)
        if parent not in self._parents:
            self._parents[parent] = self._is_inside(parent)
        return not self._parents[parent] or (os.path.islink(path) and not self._is_inside(path))

    def find(self, file_name: str) -> Path | None:
        """The file of that name, or None if there is none. Call `leaves` first."""
        path = os.path.join(self.root, file_name)
        try:
            return Path(path) if stat.S_ISREG(os.stat(path).st_mode) else None
        except OSError:  # absent, a dangling link, or a name that the file system does not take
            return None

    def _is_inside(self, path: str) -> bool:
        real = os.path.realpath(path)
        return real == self._real or real.startswith(os.path.join(self._real, ""))
