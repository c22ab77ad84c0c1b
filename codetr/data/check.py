"""Checks a COCO data set: every entry of its annotation files against the others, and against the files on disk.

Imports no torch, so that it starts at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from codetr.data.annotations import (
    AnnotationFile,
    Entry,
    ImageFolder,
    annotation_flaw,
    category_flaw,
    clipped,
    is_crowd,
    is_cut,
    is_empty,
    is_id,
    read_annotations,
)
from codetr.data.check_images import ImageFacts, Progress, check_images
from codetr.data.config import DataConfig
from codetr.data.findings import Finding, Kind, Report
from codetr.data.layout import SPLITS, annotation_candidates, open_annotations


def check_folder(root: Path, *, decode_all: bool = True, progress: Progress | None = None) -> list[Report]:
    """A report for each split of a data folder.

    decode_all: decode every image to its end, and compare contents; False reads headers alone.
    progress: called with the number of images done and the number of all images of the split.
    Raises: UserError if there is no split, or an annotation file is not a COCO file at all.
    """
    config = DataConfig(dir=root)
    present = [s for s in SPLITS if any(path.is_file() for path in annotation_candidates(root, s))]
    reports = []
    for split in present or SPLITS:  # without any, opening the first says what was looked for
        file, images = open_annotations(config, split)
        reports.append(check_split(file, images, split=split, decode_all=decode_all, progress=progress))
    return _compare(reports)


def check_split(
    annotations: Path | AnnotationFile,
    images: Path,
    *,
    split: str,
    decode_all: bool = True,
    progress: Progress | None = None,
) -> Report:
    """The report on one annotation file and its image folder. Raises: UserError if it is not a COCO file at all."""
    file = annotations if isinstance(annotations, AnnotationFile) else read_annotations(annotations)
    names, same_category, findings = _check_categories(file.categories)
    facts = check_images(file, ImageFolder(images), decode_all=decode_all, progress=progress)
    findings += facts.findings
    used = _Used()
    for index, entry in enumerate(file.annotations):
        findings += _check_annotation(index, entry, facts, names, same_category, used)
    findings += _unused(file, facts, names, used)
    return Report(split, file, images, tuple(findings), facts.same, same_category, facts.digests)


class _Used:
    """What earlier annotations have used."""

    def __init__(self) -> None:
        self.ids: set[int] = set()
        self.keys: dict[tuple[Any, ...], int] = {}
        self.images: set[int] = set()
        self.categories: set[int] = set()
        self.last_id = 0


def _check_categories(categories: Sequence[Entry]) -> tuple[dict[int, str], dict[int, int], list[Finding]]:
    """Names by id, the id that stands for another one of the same name, and what is wrong."""
    names: dict[int, str] = {}
    first: dict[str, int] = {}
    same: dict[int, int] = {}
    findings: list[Finding] = []
    for index, entry in enumerate(categories):
        flaw = category_flaw(entry)
        identity = entry["id"] if is_id(entry.get("id")) else None
        kind = None
        if flaw is not None:
            kind, detail = Kind.MALFORMED_CATEGORY, flaw
        elif identity in names:
            kind, detail = Kind.DUPLICATE_CATEGORY_ID, f"{entry['name']!r} and {names[entry['id']]!r}"
        elif entry["name"] in first:
            kind, detail = Kind.DUPLICATE_CATEGORY_NAME, f"{entry['name']!r} is category id {first[entry['name']]} too"
            same[entry["id"]] = first[entry["name"]]
        if kind is not None:
            findings.append(Finding(kind, "categories", index, detail, category_id=identity, repair=None))
        if flaw is None and kind is not Kind.DUPLICATE_CATEGORY_ID:
            names[entry["id"]] = entry["name"]
            first.setdefault(entry["name"], entry["id"])
    return names, same, findings


def _check_annotation(
    index: int,
    entry: Entry,
    facts: ImageFacts,
    names: Mapping[int, str],
    same_category: Mapping[int, int],
    used: _Used,
) -> list[Finding]:
    """What is wrong with one annotation: the first thing that makes it useless, or all that can be mended."""
    draft = Finding(Kind.MALFORMED_ANNOTATION, "annotations", index, "", annotation_id=_identity(entry, "id"))
    draft = replace(draft, image_id=_identity(entry, "image_id"), repair=None)
    flaw = annotation_flaw(entry)
    if flaw is not None:
        return [replace(draft, detail=flaw)]
    draft = replace(draft, file=facts.names.get(entry["image_id"]))
    image_id, category_id = int(entry["image_id"]), int(entry["category_id"])
    image_id = facts.same.get(image_id, image_id)
    category_id = same_category.get(category_id, category_id)
    useless = _useless(entry, facts, names, image_id)
    if useless is not None:
        return [replace(draft, kind=useless[0], detail=useless[1])]
    used.images.add(image_id)
    used.categories.add(category_id)
    size = facts.sizes.get(image_id)
    # Compared as they will be read: two boxes that differ outside the image alone are the same.
    box = tuple(entry["bbox"]) if size is None else clipped(entry["bbox"], size)
    key = (image_id, category_id, is_crowd(entry), *box)
    if key in used.keys:
        return [replace(draft, kind=Kind.DUPLICATE_ANNOTATION, detail=f"the same as annotation id {used.keys[key]}")]
    used.keys[key] = entry["id"]
    return _mendable(entry, draft, size, used)


def _useless(entry: Entry, facts: ImageFacts, names: Mapping[int, str], image_id: int) -> tuple[Kind, str] | None:
    box = entry["bbox"]
    size = facts.sizes.get(image_id)
    if entry["image_id"] not in facts.listed:
        return Kind.UNKNOWN_IMAGE, f"image id {entry['image_id']} is not in the file"
    if entry["category_id"] not in names:
        return Kind.UNKNOWN_CATEGORY, f"category id {entry['category_id']} is not in the file"
    if box[2] <= 0 or box[3] <= 0:
        return Kind.DEGENERATE_BOX, f"bbox {box}"
    if size is not None and is_empty(box, size):
        return Kind.OUTSIDE_BOX, f"bbox {box} in an image of {size[1]} x {size[0]}"
    return None


def _mendable(entry: Entry, draft: Finding, size: tuple[int, int] | None, used: _Used) -> list[Finding]:
    findings: list[Finding] = []
    box = entry["bbox"]
    if entry["id"] in used.ids:
        # The cleaned copy numbers such annotations anew; see `clean`.
        detail = "used by an earlier annotation"
        findings.append(replace(draft, kind=Kind.DUPLICATE_ANNOTATION_ID, detail=detail, repair={"id": None}))
    used.ids.add(entry["id"])
    area = box[2] * box[3]
    if size is not None and is_cut(box, size):
        x1, y1, x2, y2 = clipped(box, size)
        inside = [x1, y1, x2 - x1, y2 - y1]
        detail = f"bbox {box} in an image of {size[1]} x {size[0]}"
        repair: dict[str, Any] = {"bbox": inside}
        area = inside[2] * inside[3]
        if not entry.get("segmentation"):
            repair["area"] = area
        findings.append(replace(draft, kind=Kind.CUT_BOX, detail=detail, repair=repair))
    if "area" not in entry:
        findings.append(replace(draft, kind=Kind.NO_AREA, detail="", repair={"area": area}))
    return findings


def _unused(file: AnnotationFile, facts: ImageFacts, names: Mapping[int, str], used: _Used) -> list[Finding]:
    findings = []
    for index, entry in enumerate(file.images):
        identity = _identity(entry, "id")
        if identity is not None and identity not in used.images and identity not in facts.same:
            findings.append(Finding(Kind.NO_BOXES, "images", index, "", file=facts.names[identity], image_id=identity))
    for index, entry in enumerate(file.categories):
        identity = _identity(entry, "id")
        if identity is not None and identity in names and identity not in used.categories:
            findings.append(Finding(Kind.UNUSED_CATEGORY, "categories", index, names[identity], category_id=identity))
    return findings


def _compare(reports: Sequence[Report]) -> list[Report]:
    """Adds what only shows when the splits lie side by side, to the report of the second."""
    if len(reports) < 2:
        return list(reports)
    train, val = reports
    names = [{(e.get("id"), e.get("name")): index for index, e in enumerate(r.file.categories)} for r in reports]
    added = [
        Finding(Kind.DIFFERENT_CATEGORIES, "categories", 0, f"id {identity}, {name!r}: in one split only")
        for identity, name in sorted(set(names[0]) ^ set(names[1]), key=str)
    ]
    files = {digest: identity for identity, digest in train.digests.items()}
    for index, entry in enumerate(val.file.images):
        digest = val.digests.get(entry["id"]) if is_id(entry.get("id")) else None
        if digest in files:
            detail = f"the same as image id {files[digest]} of {train.split}"
            name = str(entry.get("file_name"))
            added.append(Finding(Kind.IN_BOTH_SPLITS, "images", index, detail, file=name, image_id=entry["id"]))
    return [train, replace(val, findings=(*val.findings, *added))]


def _identity(entry: Entry, key: str) -> int | None:
    value = entry.get(key)
    return value if isinstance(value, int) and is_id(value) else None
