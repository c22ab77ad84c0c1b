"""A COCO annotation file as parsed JSON, and the rules that its entries obey. Imports no torch."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codetr.errors import UserError

Entry = Mapping[str, Any]
LISTS = ("images", "annotations", "categories")
ROUNDING = 0.02  # px; coordinates are commonly written with two decimals
LIMIT = 1e9  # no image is as large; NaN, infinities and absurd integers all fail the comparison


@dataclass(frozen=True)
class AnnotationFile:
    """The three lists of a COCO annotation file; `extra` holds its other keys (info, licenses)."""

    path: Path
    images: list[Entry]
    annotations: list[Entry]
    categories: list[Entry]
    extra: dict[str, Any]


def read_annotations(path: Path) -> AnnotationFile:
    """Parses an annotation file; its entries are not looked at yet.

    Raises: UserError if the file cannot be read, is not JSON, or has not the three lists of objects.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); data.dir or data.*.annotations names it"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file ({error}); a COCO annotation file is JSON in UTF-8") from error
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}:{error.colno}"
        raise UserError(f"{where}: not valid JSON ({error.msg}); the file may be incomplete") from error
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
    return AnnotationFile(path, content["images"], content["annotations"], content["categories"], extra)


def is_id(value: object) -> bool:
    """True for an integer; JSON's true and false are none."""
    return type(value) is int


def image_flaw(entry: Entry) -> str | None:
    """What makes an image entry unusable, or None. Width and height are not looked at."""
    if not is_id(entry.get("id")):
        return f"id must be an integer, found {entry.get('id')!r}"
    if not isinstance(entry.get("file_name"), str) or not entry["file_name"]:
        return f"file_name must be a text, found {entry.get('file_name')!r}"
    return None


def stated_size(entry: Entry) -> tuple[int, int] | None:
    """Height and width that an image entry states, or None if they are absent or not positive integers."""
    height, width = entry.get("height"), entry.get("width")
    return (height, width) if type(height) is int and type(width) is int and height > 0 and width > 0 else None


def annotation_flaw(entry: Entry) -> str | None:
    """What makes an annotation unusable whatever the other lists say, or None."""
    for key in ("id", "image_id", "category_id"):
        if not is_id(entry.get(key)):
            return f"{key} must be an integer, found {entry.get(key)!r}"
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        return f"bbox must be four finite numbers [x, y, width, height], found {box!r}"
    return None


def category_flaw(entry: Entry) -> str | None:
    """What makes a category unusable, or None."""
    if not is_id(entry.get("id")):
        return f"id must be an integer, found {entry.get('id')!r}"
    if not isinstance(entry.get("name"), str) or not entry["name"]:
        return f"name must be a text, found {entry.get('name')!r}"
    return None


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
