"""Roboflow's COCO export: train/, valid/ and test/, each with _annotations.coco.json beside its images."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from codetr.data.annotations import AnnotationFile, read_annotations
from codetr.data.formats.found import FOLDER_NAMES, AnySplit, Found

NAME = "_annotations.coco.json"


def files(split: AnySplit) -> list[str]:
    return [f"{folder}/{NAME}" for folder in FOLDER_NAMES[split]]


def find(root: Path, split: AnySplit) -> Found | None:
    """The split, if its annotation file is there."""
    for name in files(split):
        path = root / name
        if path.is_file():
            return Found(path, partial(_read, path))
    return None


def without_superclass(file: AnnotationFile) -> AnnotationFile:
    """The file without Roboflow's category 0, which only names the supercategory of the others.

    It stays where an annotation uses it, and where it is no other category's supercategory.
    """
    parents = {entry.get("supercategory") for entry in file.categories if entry.get("id") != 0}
    used = any(entry.get("category_id") == 0 for entry in file.annotations)
    kept = [entry for entry in file.categories if used or entry.get("id") != 0 or entry.get("name") not in parents]
    return replace(file, categories=kept)


def _read(path: Path, images: Path | None) -> tuple[AnnotationFile, Path]:
    return without_superclass(read_annotations(path)), images or path.parent
