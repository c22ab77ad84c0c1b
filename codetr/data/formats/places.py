"""Where the images of a JSON annotation file lie: the folder and the spelling of names that finds them on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from codetr.data.annotations import AnnotationFile, Dialect, Entry, ImageFolder, is_id
from codetr.data.formats.found import without_images
from codetr.data.shards import is_packed
from codetr.errors import UserError

PROBED = 20  # images, spread over the file, that are looked for in every candidate
LISTED = 8  # entries of a folder that an error message shows

Spelling = Callable[[Entry], str | None]

# Named in the annotation files of Objects365 v2, but in none of its archives.
# Source: open-mmlab/mmdetection mmdet/datasets/objects365.py.
LACKED = frozenset({"objects365_v2_00908726.jpg", "objects365_v1_00320532.jpg", "objects365_v1_00320534.jpg"})


def place_images(
    file: AnnotationFile, root: Path, split: str, *, given: Path | None = None
) -> tuple[AnnotationFile, Path]:
    """The file with names as they are on disk, and the image folder that they start from.

    given: the image folder, if the user has named it. Raises: UserError if there is no such folder, or if it is a
    known data set none of whose images is there.
    """
    folders = [given] if given is not None else [folder for folder in _folders(file, root, split) if folder.is_dir()]
    if not folders:
        raise UserError(_no_folder(file, root, split))
    if any(is_packed(folder) for folder in folders):  # shards know an image by its id
        return file, next(folder for folder in folders if is_packed(folder))
    entries = _sample(file.images)
    candidates = [(folder, spelling) for spelling in SPELLINGS[file.dialect] for folder in folders]
    scores = [_score(entries, *candidate) for candidate in candidates]
    best = max(scores)
    if best == 0 and file.dialect != "coco" and entries:
        raise UserError(_none_there(file, folders, entries[0]))
    folder, spelling = candidates[scores.index(best)]  # the first of equals
    if spelling is not as_stated:
        file = replace(file, images=[_respelt(entry, spelling) for entry in file.images])
    return _without_lacked(file, folder), folder


def as_stated(entry: Entry) -> str | None:
    """`file_name`, as COCO has it."""
    name = entry.get("file_name")
    return name if isinstance(name, str) else None


def from_coco_url(entry: Entry) -> str | None:
    """The last two parts of `coco_url`, which is all that LVIS v1 says: train2017/000000391895.jpg."""
    url = entry.get("coco_url")
    return _last_parts(urlsplit(url).path, 2) if isinstance(url, str) else None


def number_alone(entry: Entry) -> str | None:
    """COCO's name of 2017 without a folder: 000000391895.jpg, also from COCO_val2014_000000391895.jpg."""
    name = from_coco_url(entry) or as_stated(entry)
    return _last_parts(name, 1).rpartition("_")[2] if name else None


def in_patch(entry: Entry) -> str | None:
    """The patch folder and the name: patch8/objects365_v1_00420917.jpg from images/v1/patch8/..."""
    name = as_stated(entry)
    return _last_parts(name, 2) if name else None


def name_alone(entry: Entry) -> str | None:
    """The name without its folders."""
    name = as_stated(entry)
    return _last_parts(name, 1) if name else None


SPELLINGS: dict[Dialect, tuple[Spelling, ...]] = {
    "coco": (as_stated,),
    "lvis": (as_stated, from_coco_url, number_alone),
    "objects365": (as_stated, in_patch, name_alone),
}


def _folders(file: AnnotationFile, root: Path, split: str) -> list[Path]:
    """Where the images may lie, likeliest first."""
    images = [root / "images", root / "images" / split]
    years = [root / f"{split}2017", root / "images" / f"{split}2017"]
    usual = years + images if file.path.stem.endswith("2017") else images + years
    if file.dialect == "lvis":
        places = (root, root.resolve().parent / "coco", root.resolve().parent / "coco2017")
        return [folder for place in places for folder in (place, place / "images")] + usual
    if file.dialect == "objects365":
        return [root / split, root / "images" / split, root / split / "images", root, *usual]
    return usual


def _sample(images: Sequence[Entry]) -> list[Entry]:
    return [images[index * len(images) // PROBED] for index in range(PROBED)] if len(images) > PROBED else list(images)


def _score(entries: Sequence[Entry], folder: Path, spelling: Spelling) -> int:
    names = [spelling(entry) for entry in entries]
    return sum(name is not None and os.path.exists(folder / name) for name in names if not _is_odd(name))


def _is_odd(name: str | None) -> bool:
    return name is not None and "\0" in name  # `ImageFolder` says so later


def _respelt(entry: Entry, spelling: Spelling) -> Entry:
    name = spelling(entry)
    return entry if name is None else {**entry, "file_name": name}


def _last_parts(path: str, number: int) -> str:
    return "/".join(path.replace("\\", "/").strip("/").split("/")[-number:])


def _without_lacked(file: AnnotationFile, folder: Path) -> AnnotationFile:
    if file.dialect != "objects365":
        return file
    images = ImageFolder(folder)
    lacked = [
        int(e["id"])
        for e in file.images
        if is_id(e.get("id")) and name_alone(e) in LACKED and images.find(str(as_stated(e))) is None
    ]
    return without_images(file, lacked, "which the official archives lack")


def _no_folder(file: AnnotationFile, root: Path, split: str) -> str:
    from codetr.data.known import help_for

    looked = ", ".join(f"{folder}/" for folder in _folders(file, root, split))
    known = help_for(root)
    return (
        f"{file.path}: its images were not found; looked for {looked}; found in {root}: {listing(root)}; "
        f"name the folder with data.{split}.images=DIR" + (f"\n{known}" if known else "")
    )


def _none_there(file: AnnotationFile, folders: Sequence[Path], entry: Entry) -> str:
    from codetr.data.known import instructions  # which looks for the files of these layouts

    names = {name: None for spelling in SPELLINGS[file.dialect] if (name := spelling(entry)) is not None}
    looked = ", ".join(f"{folder}/" for folder in folders)
    return (
        f"{file.path}: none of its images was found; looked for {' or '.join(names)} and others in {looked}\n"
        f"{instructions(file.dialect)}"
    )


def listing(folder: Path) -> str:
    """What is in a folder, for a message."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return (", ".join(names[:LISTED]) or "nothing") + more
