"""Writes a data folder of any layout as COCO: annotations/instances_SPLIT.json and images/SPLIT. Imports no torch."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from codetr.data.annotations import AnnotationFile, ImageFolder, image_flaw
from codetr.data.formats.found import AnySplit
from codetr.data.layout import open_folder, splits_of
from codetr.data.shards import is_packed
from codetr.errors import UserError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Written:
    """What was written of a split. notes: what its reader left out or assumed."""

    split: AnySplit
    path: Path
    images: int
    annotations: int
    categories: int
    copied: int
    notes: tuple[str, ...]


def convert(root: Path, out: Path, *, copy: bool = False, progress: Progress | None = None) -> list[Written]:
    """Writes every split of `root` to `out`. Fields of the entries that COCO does not have are kept.

    Images become hard links, or copies with `copy` and where the file system has no links between the two places.
    progress: called with the number of images done and of all images of the split.
    Raises: UserError if a split cannot be read, an image is missing, or `out` is not empty or lies in `root`.
    """
    if root.resolve() == out.resolve() or root.resolve() in out.resolve().parents:
        raise UserError(f"-o {out}: the folder lies in {root}, which stays as it is; name one outside of it")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"-o {out}: it exists already and is not empty; name a new folder")
    splits = splits_of(root) or ("train",)  # without any, opening one says what was looked for
    try:
        return [_write(*open_folder(root, split), split, out, copy=copy, progress=progress) for split in splits]
    except OSError as error:
        raise UserError(f"-o {out}: cannot be written ({error})") from error


def _write(
    file: AnnotationFile, folder: Path, split: AnySplit, out: Path, *, copy: bool, progress: Progress | None
) -> Written:
    if is_packed(folder):
        raise UserError(f"{folder}: the images are packed in shards; convert the folder that they were packed from")
    source, target = ImageFolder(folder), out / "images" / split
    found = [(entry["file_name"], _find(file, index, source)) for index, entry in enumerate(file.images)]
    copied = 0
    for done, (name, real) in enumerate(found, start=1):
        copied += _place(real, target / name, copy=copy)
        if progress is not None:
            progress(done, len(found))
    path = out / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**file.extra, "images": file.images, "annotations": file.annotations, "categories": file.categories}
    path.write_text(json.dumps(content), encoding="utf-8")  # last: a conversion that was cut short has none
    counts = (len(file.images), len(file.annotations), len(file.categories))
    return Written(split, path, *counts, copied, file.notes)


def _find(file: AnnotationFile, index: int, source: ImageFolder) -> str:
    entry = file.images[index]
    flaw = image_flaw(entry)
    if flaw is None and source.leaves(entry["file_name"]):
        flaw = f"file_name {entry['file_name']!r} leads out of {source.root}"
    path = source.find(entry["file_name"]) if flaw is None else None
    if path is None:
        flaw = flaw or f"there is no file {source.root / entry['file_name']}"
        raise UserError(f"{file.path}: image id {entry.get('id')}: {flaw}; `codetr data check` lists every such entry")
    return os.path.realpath(path)


def _place(source: str, target: Path, *, copy: bool) -> bool:
    """Makes `target`; True if the content was copied."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return False  # listed twice
    if not copy:
        try:
            os.link(source, target)
            return False
        except OSError:  # another file system, or one without hard links
            pass
    shutil.copyfile(source, target)
    return True
