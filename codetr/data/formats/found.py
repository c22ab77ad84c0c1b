"""What a layout's `find` answers with, and what its `read` may leave out. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from codetr.data.annotations import AnnotationFile

SplitName = Literal["train", "val"]
AnySplit = Literal["train", "val", "test"]
# Roboflow and YOLO write `valid` for what others call `val`.
FOLDER_NAMES: dict[AnySplit, tuple[str, ...]] = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
NAMED = 3


@dataclass(frozen=True)
class Found:
    """A split of a data folder.

    path: what messages name. read: parses it and says in which folder its images are, which is the given one if the
    user has named one; raises UserError.
    """

    path: Path
    read: Callable[[Path | None], tuple[AnnotationFile, Path]]


def without_images(file: AnnotationFile, ids: Collection[int], why: str) -> AnnotationFile:
    """The file without some images and their annotations, and a note of how many. `why` ends the sentence."""
    if not ids:
        return file
    gone = set(ids)
    names = [str(entry.get("file_name")) for entry in file.images if entry.get("id") in gone]
    named = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    count = f"{len(names)} of {len(file.images)} images"
    return replace(
        file,
        images=[entry for entry in file.images if entry.get("id") not in gone],
        annotations=[entry for entry in file.annotations if entry.get("image_id") not in gone],
        notes=(*file.notes, f"{file.path}: {count} are left out, {why}: {named}"),
    )


def files_below(folder: Path) -> list[str]:
    """The image files of a folder and of those in it, as sorted names with `/`. Links to folders are not followed."""
    names = []
    for parent, _, files in os.walk(folder):
        inner = os.path.relpath(parent, folder).replace(os.sep, "/")
        prefix = "" if inner == "." else f"{inner}/"
        names += [prefix + name for name in files if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    return sorted(names)
