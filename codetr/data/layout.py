"""Where the annotation file and the image folder of a split lie. Imports no torch.

Layouts, in this order:
- DIR/annotations/instances_{train,val}.json with DIR/images, or DIR/images/{train,val};
- DIR/annotations/instances_{train,val}2017.json with DIR/{train,val}2017, or DIR/images/{train,val}2017 (COCO's own).
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

from codetr.data.annotations import AnnotationFile, read_annotations
from codetr.data.config import DataConfig
from codetr.errors import UserError

SplitName = Literal["train", "val"]
SPLITS: tuple[SplitName, ...] = ("train", "val")
PROBED = 20  # file names that are looked for when several folders might hold the images
LISTED = 8  # entries of a folder that an error message shows


def find_annotations(config: DataConfig, split: SplitName) -> Path:
    """The annotation file of a split. Raises: UserError, saying what was looked for and what is there."""
    given = getattr(config, split).annotations
    if given is not None:
        return _given(given, config, f"data.{split}.annotations", is_folder=False)
    if config.dir is None:
        raise UserError(
            f"data: no data set is named for {split}; give data=DIR (a folder with images/ and annotations/), "
            f"or data.{split}.annotations and data.{split}.images"
        )
    candidates = annotation_candidates(config.dir, split)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(_nothing_found(config.dir, split, candidates))


def open_annotations(config: DataConfig, split: SplitName) -> tuple[AnnotationFile, Path]:
    """The parsed annotation file of a split and its image folder. Raises: UserError."""
    path = find_annotations(config, split)
    file = read_annotations(path)
    given = getattr(config, split).images
    if given is not None:
        return file, _given(given, config, f"data.{split}.images", is_folder=True)
    root = config.dir if config.dir is not None else path.parent
    names = [entry["file_name"] for entry in file.images[:PROBED] if isinstance(entry.get("file_name"), str)]
    return file, _image_folder(root, path, split, names)


def annotation_candidates(root: Path, split: SplitName) -> list[Path]:
    return [root / "annotations" / f"instances_{split}{year}.json" for year in ("", "2017")]


def _image_folder(root: Path, annotations: Path, split: SplitName, names: list[str]) -> Path:
    images = [root / "images", root / "images" / split]
    coco = [root / f"{split}2017", root / "images" / f"{split}2017"]
    candidates = coco + images if annotations.stem.endswith("2017") else images + coco
    folders = [folder for folder in candidates if folder.is_dir()]
    if not folders:
        looked = ", ".join(f"{folder}/" for folder in candidates)
        raise UserError(
            f"{annotations}: its images were not found; looked for {looked}; found in {root}: {_listing(root)}; "
            f"name the folder with data.{split}.images=DIR"
        )
    return max(folders, key=lambda folder: sum((folder / name).exists() for name in names))  # the first of equals


def _given(path: Path, config: DataConfig, key: str, *, is_folder: bool) -> Path:
    tried = [path] if config.dir is None or path.is_absolute() else [config.dir / path, path]
    for candidate in tried:
        if candidate.is_dir() if is_folder else candidate.is_file():
            return candidate
    kind = "folder" if is_folder else "file"
    raise UserError(f"{key}: no {kind} {' or '.join(map(str, tried))}{_nearest(tried[0])}")


def _nothing_found(root: Path, split: SplitName, candidates: list[Path]) -> str:
    if not root.exists():
        return f"data.dir: no folder {root}{_nearest(root)}"
    if not root.is_dir():
        return f"data.dir: {root} is a file, not a folder; for one annotation file use data.{split}.annotations"
    looked = " or ".join(str(path.relative_to(root)) for path in candidates)
    text = f"data.dir: no {split} annotations in {root}; looked for {looked}; found there: {_listing(root)}"
    resolved = root.resolve()
    for other in [resolved.parent, *sorted(path for path in resolved.iterdir() if path.is_dir())]:
        if any(candidate.is_file() for candidate in annotation_candidates(other, split)):
            return f"{text}; did you mean data={other}?"
    found = sorted(path.relative_to(root) for pattern in ("*.json", "*/*.json") for path in root.glob(pattern))
    if not found:
        return f"{text}. Annotations must be COCO-format JSON"
    names = [str(path) for path in found]
    nearest = difflib.get_close_matches(f"annotations/instances_{split}.json", names, n=1, cutoff=0.0)[0]
    option = "(`codetr data check`: --annotations FILE)"
    return f"{text}; if {nearest} is the file, say data.{split}.annotations={nearest} {option}"


def _nearest(path: Path) -> str:
    """A hint at the sibling whose name is nearest, if the parent exists."""
    if not path.parent.is_dir():
        return f" (nor the folder {path.parent})"
    near = difflib.get_close_matches(path.name, [sibling.name for sibling in path.parent.iterdir()], n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else f"; {path.parent} holds {_listing(path.parent)}"


def _listing(folder: Path) -> str:
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return (", ".join(names[:LISTED]) or "nothing") + more
