"""The layouts of COCO, LVIS and Objects365: one JSON file for each split, in one of a few places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from codetr.data.annotations import AnnotationFile, read_annotations
from codetr.data.formats.found import AnySplit, Found
from codetr.data.formats.places import place_images


def coco_files(split: AnySplit) -> Sequence[str]:
    """instances_train.json, or COCO's instances_train2017.json."""
    return [f"annotations/instances_{split}{year}.json" for year in ("", "2017")]


def lvis_files(split: AnySplit) -> Sequence[str]:
    """LVIS v1, its minival where there is no val, and v0.5."""
    names = [f"lvis_v1_{split}.json", f"lvis_v0.5_{split}.json"]
    if split == "val":
        names += ["lvis_v1_minival.json", "lvis_v1_minival_inserted_image_name.json"]
    return [f"{folder}{name}" for name in names for folder in ("annotations/", "")]


def objects365_files(split: AnySplit) -> Sequence[str]:
    """Objects365 v2, as its archives unpack."""
    name = f"zhiyuan_objv2_{split}.json"
    return [f"{folder}{name}" for folder in ("annotations/", "", f"{split}/")]


def finder(files: Callable[[AnySplit], Sequence[str]]) -> Callable[[Path, AnySplit], Found | None]:
    """`find` of a layout whose annotation file has one of these names."""

    def find(root: Path, split: AnySplit) -> Found | None:
        for name in files(split):
            path = root / name
            if path.is_file():
                return Found(path, partial(_read, path, root, split))
        return None

    return find


def _read(path: Path, root: Path, split: AnySplit, images: Path | None) -> tuple[AnnotationFile, Path]:
    return place_images(read_annotations(path), root, split, given=images)
