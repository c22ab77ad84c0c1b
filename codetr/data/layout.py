"""Where the annotations and the images of a split lie, in whichever layout a data folder has. Imports no torch.

`LAYOUTS` lists the layouts in the order in which they are tried. The first one that fits both splits is taken, else the
first that fits one: a folder that holds COCO's JSON files and YOLO labels of the same images is read as COCO.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from codetr.data.annotations import AnnotationFile, ImageFolder, read_annotations, stated_size
from codetr.data.config import DataConfig
from codetr.data.formats import json_files, packed, roboflow, voc, yolo
from codetr.data.formats.found import AnySplit, Found, without_images
from codetr.data.formats.found import SplitName as SplitName
from codetr.data.formats.places import as_stated, listing, place_images
from codetr.data.known import help_for
from codetr.data.shards import open_shards
from codetr.errors import Notice, UserError

SPLITS: tuple[SplitName, ...] = ("train", "val")
ALL_SPLITS: tuple[AnySplit, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Layout:
    """A way to lay out a data set. find: the split of a folder, if it is there. looked_for: that, in words."""

    name: str
    find: Callable[[Path, AnySplit], Found | None]
    looked_for: Callable[[AnySplit], str]


def _of_files(name: str, files: Callable[[AnySplit], Sequence[str]]) -> Layout:
    return Layout(name, json_files.finder(files), lambda split: " or ".join(files(split)))


LAYOUTS = (
    Layout("packed", packed.find, packed.looked_for),
    _of_files("COCO", json_files.coco_files),
    _of_files("LVIS", json_files.lvis_files),
    _of_files("Objects365", json_files.objects365_files),
    Layout("Roboflow COCO", roboflow.find, lambda split: " or ".join(roboflow.files(split))),
    Layout("YOLO", yolo.find, yolo.looked_for),
    Layout("Pascal VOC", voc.find, voc.looked_for),
)


def recognise(root: Path) -> Layout | None:
    """The layout of a data folder, None if it has none of them. Looks at names alone."""
    best: tuple[int, Layout | None] = (0, None)
    for layout in LAYOUTS:
        count = sum(layout.find(root, split) is not None for split in SPLITS)
        if count == len(SPLITS):
            return layout
        if count > best[0]:
            best = (count, layout)
    return best[1]


def splits_of(root: Path) -> tuple[AnySplit, ...]:
    """The splits that a data folder has in its layout, `test` included."""
    layout = recognise(root)
    return () if layout is None else tuple(split for split in ALL_SPLITS if layout.find(root, split) is not None)


def open_folder(root: Path, split: AnySplit, *, images: Path | None = None) -> tuple[AnnotationFile, Path]:
    """The annotations of a split of a data folder, and its image folder, which is `images` if that is given.

    Raises: UserError if the folder has no known layout, saying what was looked for, or the split cannot be read.
    """
    layout = recognise(root)
    found = None if layout is None else layout.find(root, split)
    if found is None:
        raise UserError(_nothing_found(root, split, layout))
    return found.read(images)


def open_annotations(config: DataConfig, split: SplitName) -> tuple[AnnotationFile, Path]:
    """The annotations of a split and its image folder, from files that the settings name or from `data.dir`.

    With `on_bad_image: skip` images without a file are left out. What is left out or assumed is said (`Notice`).
    Raises: UserError.
    """
    given: Path | None = getattr(config, split).annotations
    images = _given_folder(config, split)
    if given is not None:
        path = _given(given, config, f"data.{split}.annotations", is_folder=False)
        file, folder = place_images(read_annotations(path), config.dir or path.parent, split, given=images)
    elif config.dir is None:
        raise UserError(
            f"data: no data set is named for {split}; give data=DIR (a folder with images/ and annotations/), "
            f"or data.{split}.annotations and data.{split}.images"
        )
    else:
        file, folder = open_folder(config.dir, split, images=images)
    if config.on_bad_image == "skip":
        file = _without_missing(file, folder)
    for note in file.notes:
        warnings.warn(note, Notice, stacklevel=2)
    return file, folder


def _without_missing(file: AnnotationFile, folder: Path) -> AnnotationFile:
    images = open_shards(folder) or ImageFolder(folder)
    named = [entry for entry in file.images if as_stated(entry) and not images.leaves(entry["file_name"])]
    gone = [entry["id"] for entry in named if stated_size(entry) is None or images.find(entry["file_name"]) is None]
    return without_images(file, gone, "whose files are missing or unreadable")


def _given_folder(config: DataConfig, split: SplitName) -> Path | None:
    given: Path | None = getattr(config, split).images
    return None if given is None else _given(given, config, f"data.{split}.images", is_folder=True)


def _given(path: Path, config: DataConfig, key: str, *, is_folder: bool) -> Path:
    tried = [path] if config.dir is None or path.is_absolute() else [config.dir / path, path]
    for candidate in tried:
        if candidate.is_dir() if is_folder else candidate.is_file():
            return candidate
    kind = "folder" if is_folder else "file"
    raise UserError(f"{key}: no {kind} {' or '.join(map(str, tried))}{_nearest(tried[0])}")


def _nothing_found(root: Path, split: AnySplit, layout: Layout | None) -> str:
    if not root.exists():
        return f"data.dir: no folder {root}{_nearest(root)}"
    if not root.is_dir():
        advice = f"give data={root.parent}" if root.suffix in (".yaml", ".yml") else f"use data.{split}.annotations"
        return f"data.dir: {root} is a file, not a folder; {advice}"
    text = f"data.dir: no {split} annotations in {root}"
    looked = "Looked for\n" + "\n".join(f"  {each.name}: {each.looked_for(split)}" for each in LAYOUTS)
    if layout is not None:
        text += f", which is in the {layout.name} layout; looked for {layout.looked_for(split)}"
        looked = ""
    advice = help_for(root) or looked
    return f"{text}; found there: {listing(root)}{_hint(root, split)}" + (f"\n{advice}" if advice else "")


def _hint(root: Path, split: AnySplit) -> str:
    """The end of a message: where else it may be."""
    resolved = root.resolve()
    for other in [resolved.parent, *sorted(path for path in resolved.iterdir() if path.is_dir())]:
        layout = recognise(other)
        if layout is not None and layout.find(other, split) is not None:
            return f"; did you mean data={other}?"
    found = sorted(path.relative_to(root) for pattern in ("*.json", "*/*.json") for path in root.glob(pattern))
    if not found:
        return ""
    names = [str(path) for path in found]
    nearest = difflib.get_close_matches(f"annotations/instances_{split}.json", names, n=1, cutoff=0.0)[0]
    option = "(`codetr data check`: --annotations FILE)"
    return f"; if {nearest} is the file, say data.{split}.annotations={nearest} {option}"


def _nearest(path: Path) -> str:
    """A hint at the sibling whose name is nearest, if the parent exists."""
    if not path.parent.is_dir():
        return f" (nor the folder {path.parent})"
    near = difflib.get_close_matches(path.name, [sibling.name for sibling in path.parent.iterdir()], n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else f"; {path.parent} holds {listing(path.parent)}"
