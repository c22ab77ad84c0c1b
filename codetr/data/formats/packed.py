"""The layout that `codetr data pack` writes: a COCO file for each split, and a folder of shards."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from codetr.data.annotations import AnnotationFile, read_annotations
from codetr.data.formats.found import AnySplit, Found
from codetr.data.shards import require_finished


def find(root: Path, split: AnySplit) -> Found | None:
    """`find` of this layout."""
    path, shards = _files(root, split)
    return Found(path, partial(_read, path, shards)) if shards.is_dir() else None


def looked_for(split: AnySplit) -> str:
    return f"annotations/instances_{split}.json with shards/{split}/"


def _files(root: Path, split: AnySplit) -> tuple[Path, Path]:
    return root / "annotations" / f"instances_{split}.json", root / "shards" / split


def _read(path: Path, shards: Path, images: Path | None) -> tuple[AnnotationFile, Path]:
    require_finished(shards)
    return read_annotations(path), images or shards
