"""A list of images without annotations, as COCO and LVIS publish it for their test images."""

from __future__ import annotations

from pathlib import Path
from typing import TypeGuard

from codetr.data.annotations import AnnotationFile, Dialect, Entry
from codetr.data.config import DataConfig
from codetr.data.formats.places import place_images
from codetr.errors import UserError
from codetr.evaluation.files import read_json


def read_images_only(data: DataConfig) -> tuple[AnnotationFile, Path] | None:
    """The file that `data.val.annotations` names and its image folder; None if it has annotations, or none is named.

    Raises:
        UserError: the file has no images or categories, or its images are not found.
    """
    named = data.val.annotations
    if named is None:
        return None
    path = named if data.dir is None or named.is_absolute() or not (data.dir / named).is_file() else data.dir / named
    if not path.is_file() or b'"annotations"' in path.read_bytes():
        return None
    content = read_json(path, what="annotation file")
    images, categories = (content.get(key) if isinstance(content, dict) else None for key in ("images", "categories"))
    if not _are_objects(images) or not _are_objects(categories):
        raise UserError(
            f"{path}: this is no annotation file. Images without annotations are an object with the lists `images` and "
            "`categories`, e.g. image_info_test-dev2017.json."
        )
    dialect: Dialect = "lvis" if any("frequency" in entry for entry in categories[:1]) else "coco"
    file = AnnotationFile(path, images, [], categories, {}, dialect)
    return place_images(file, data.dir or path.parent, "val", given=data.val.images)


def _are_objects(value: object) -> TypeGuard[list[Entry]]:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)
