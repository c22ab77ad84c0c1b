"""Pascal VOC: one XML file for each image. Roboflow's export of it has them beside the images.

Pixel coordinates of this layout start at 1 and include both ends, so a box [xmin, ymin, xmax, ymax] becomes
[xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1]. Objects marked `difficult` count neither as found nor as missed
in VOC's protocol; they become ignored regions (`iscrowd`: 1). Class names are those of all splits, alphabetically.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from codetr.data.annotations import AnnotationFile, Entry
from codetr.data.formats.found import FOLDER_NAMES, IMAGE_SUFFIXES, NAMED, AnySplit, Found
from codetr.data.formats.headers import read_headers
from codetr.data.formats.xml_files import parse_xml
from codetr.errors import UserError

LISTS = "ImageSets/Main"
# The list of a split, and the one that takes its place in sets that have only trainval and test.
LIST_NAMES: dict[AnySplit, tuple[str, ...]] = {
    "train": ("train", "trainval"),
    "val": ("val", "test"),
    "test": ("test",),
}


@dataclass(frozen=True)
class _Split:
    """path: what messages name. labels, images: folders. stems: names without suffix, in order."""

    path: Path
    labels: Path
    images: Path
    stems: list[str]


def looked_for(split: AnySplit) -> str:
    """What `find` looks for, for a message."""
    lists = " or ".join(f"{LISTS}/{name}.txt" for name in LIST_NAMES[split])
    return f"Annotations/*.xml with {lists}, or {'/*.xml or '.join(FOLDER_NAMES[split])}/*.xml beside images"


def find(root: Path, split: AnySplit) -> Found | None:
    """The split, if its list is there, or a folder with XML files in it."""
    path = _list_file(root, split)
    if path is None:
        path = next((root / name for name in FOLDER_NAMES[split] if _has_xml(root / name)), None)
    return None if path is None else Found(path, partial(_read, root, path))


def _list_file(root: Path, split: AnySplit) -> Path | None:
    if not (root / "Annotations").is_dir():
        return None
    candidates = (root / LISTS / f"{name}.txt" for name in LIST_NAMES[split])
    return next((path for path in candidates if path.is_file()), None)


def _has_xml(folder: Path) -> bool:
    return folder.is_dir() and next(folder.glob("*.xml"), None) is not None


def _read(root: Path, path: Path, images: Path | None) -> tuple[AnnotationFile, Path]:
    split = _split(root, path)
    if not split.stems:
        raise UserError(f"{split.path}: it names no image")
    others = [other for other in _splits(root) if other.path != split.path]
    own = {stem: parse_xml(_xml(split, stem)) for stem in split.stems}
    names = {name for element in own.values() for name in _class_names(element)}
    for other in others:  # a class may be in one split only, and both must number it alike
        seen = own if other.labels == split.labels else {}
        fresh = [stem for stem in other.stems if stem not in seen]
        names |= {name for stem in fresh for name in _class_names(parse_xml(_xml(other, stem)))}
    if not names:
        raise UserError(f"{split.path}: no XML file has an object with a name")
    return _file(
        split, own, {name: number for number, name in enumerate(sorted(names), start=1)}
    ), images or split.images


def _splits(root: Path) -> Iterator[_Split]:
    """All lists of a VOC folder, or all folders of an export of Roboflow's."""
    lists = [root / LISTS / f"{name}.txt" for name in ("train", "val", "trainval", "test")]
    folders = [root / name for names in FOLDER_NAMES.values() for name in names]
    if (root / "Annotations").is_dir() and any(path.is_file() for path in lists):
        yield from (_split(root, path) for path in lists if path.is_file())
    else:
        yield from (_split(root, folder) for folder in folders if _has_xml(folder))


def _split(root: Path, path: Path) -> _Split:
    if path.is_dir():
        return _Split(path, path, path, sorted(file.stem for file in path.glob("*.xml")))
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    stems = [_stem(line.strip()) for line in lines if line.strip()]
    for stem in stems:
        if "/" in stem or "\\" in stem or "\0" in stem:
            raise UserError(f"{path}: {stem!r} is no name of an image; each line is a file name without its suffix")
    return _Split(path, root / "Annotations", root / "JPEGImages", stems)


def _stem(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES else name


def _xml(split: _Split, stem: str) -> Path:
    path = split.labels / f"{stem}.xml"
    if not path.is_file():
        absent = [name for name in split.stems if not (split.labels / f"{name}.xml").is_file()]
        named = ", ".join(absent[:NAMED]) + (f" and {len(absent) - NAMED} more" if len(absent) > NAMED else "")
        raise UserError(
            f"{split.path}: {len(absent)} of {len(split.stems)} have no XML file in {split.labels}: {named}"
        )
    return path


def _class_names(element: Element) -> Iterator[str]:
    for item in element.iterfind("object"):
        name = (item.findtext("name") or "").strip()
        if name:
            yield name


def _file(split: _Split, elements: Mapping[str, Element], numbers: Mapping[str, int]) -> AnnotationFile:
    files = _images(split.images)
    entries: list[dict[str, Any]] = []
    annotations: list[Entry] = []
    for identity, (stem, element) in enumerate(elements.items(), start=1):
        entry = {"id": identity, "file_name": _image_name(element, stem, files), **_size(element)}
        entries.append(entry)
        for number, item in enumerate(element.iterfind("object"), start=1):
            where = f"{split.labels / stem}.xml: object {number}"
            annotation = {"id": len(annotations) + 1, "image_id": identity, **_object(item, numbers, where)}
            annotations.append(annotation)
    bare = [entry for entry in entries if "width" not in entry]
    for entry, header in zip(bare, read_headers(split.images, [e["file_name"] for e in bare]), strict=True):
        entry |= {} if header is None else {"height": header.height, "width": header.width}
    categories: list[Entry] = [{"id": number, "name": name} for name, number in numbers.items()]
    return AnnotationFile(split.path, list(entries), annotations, categories, {})


def _images(folder: Path) -> dict[str, str]:
    """File names by themselves and by their stem."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder, and the images belong there")
    names = [name for name in os.listdir(folder) if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    return {os.path.splitext(name)[0]: name for name in sorted(names)} | {name: name for name in names}


def _image_name(element: Element, stem: str, files: Mapping[str, str]) -> str:
    """The image of the XML file's own name; what `filename` says is often out of date."""
    stated = (element.findtext("filename") or "").strip()
    return files.get(stem) or files.get(stated) or f"{stem}.jpg"


def _size(element: Element) -> dict[str, int]:
    """Height and width, or nothing where they are not stated, or 0 as some tools write."""
    texts = {key: (element.findtext(f"size/{key}") or "").strip() for key in ("height", "width")}
    sizes = {key: int(text) for key, text in texts.items() if text.isascii() and text.isdecimal() and len(text) < 7}
    return sizes if len(sizes) == 2 and all(sizes.values()) else {}


def _object(item: Element, numbers: Mapping[str, int], where: str) -> dict[str, Any]:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise UserError(f"{where} has no name")
    keys = ("xmin", "ymin", "xmax", "ymax")
    try:
        x1, y1, x2, y2 = (float(item.findtext(f"bndbox/{key}") or "") for key in keys)
    except ValueError as error:
        raise UserError(f"{where} ({name}) needs a bndbox with the numbers {', '.join(keys)}") from error
    width, height = x2 - x1 + 1, y2 - y1 + 1
    difficult = (item.findtext("difficult") or "0").strip() == "1"
    return {
        "category_id": numbers[name],
        "bbox": [x1 - 1, y1 - 1, width, height],
        "area": max(width * height, 0.0),
        "iscrowd": int(difficult),
    }
