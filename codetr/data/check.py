"""Checks a data set: every entry of its annotations against the others, and against the files on disk.

Imports no torch, so that it starts at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from codetr.data.annotations import AnnotationFile, Entry, ImageFolder, category_flaw, is_id, read_annotations
from codetr.data.check_annotations import Used, check_annotations
from codetr.data.check_ids import with_numbers
from codetr.data.check_images import ImageFacts, Progress, check_images
from codetr.data.findings import LEAVE, Finding, Kind, ListName, Report
from codetr.data.layout import SPLITS, open_folder, splits_of
from codetr.data.leaks import leaks


def check_folder(root: Path, *, decode_all: bool = True, progress: Progress | None = None) -> list[Report]:
    """A report for each split of a data folder, of any layout that can be read.

    decode_all: decode every image to its end, and compare contents; False reads headers alone.
    progress: called with the number of images done and the number of all images of the split.
    Raises: UserError if there is no split, or its annotations cannot be read at all.
    """
    reports = []
    for split in splits_of(root) or SPLITS:  # without any, opening the first says what was looked for
        file, images = open_folder(root, split)
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
    original = annotations if isinstance(annotations, AnnotationFile) else read_annotations(annotations)
    file, findings = with_numbers(original)
    names, same_category, of_categories = _check_categories(file.categories)
    facts = check_images(file, ImageFolder(images), depth="whole" if decode_all else "header", progress=progress)
    of_annotations, used = check_annotations(file.annotations, facts, names, same_category)
    findings += _empty(file)
    findings += [*of_categories, *facts.findings, *of_annotations, *_unused(file, facts, names, used)]
    return Report(
        split, original, images, tuple(findings), facts.same, same_category, facts.digests, facts.prints, facts.turned
    )


def _empty(file: AnnotationFile) -> list[Finding]:
    lists: tuple[ListName, ...] = ("images", "categories")
    return [
        Finding(Kind.EMPTY_LIST, name, 0, f"{name!r} is empty", repair=LEAVE)
        for name in lists
        if not getattr(file, name)
    ]


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


def _unused(file: AnnotationFile, facts: ImageFacts, names: Mapping[int, str], used: Used) -> list[Finding]:
    findings = []
    for index, entry in enumerate(file.images):
        identity = entry.get("id")
        if is_id(identity) and identity not in used.images and identity not in facts.same:
            name = facts.names[entry["id"]]
            findings.append(Finding(Kind.NO_BOXES, "images", index, "", file=name, image_id=identity))
    for index, entry in enumerate(file.categories):
        identity = entry.get("id")
        if is_id(identity) and identity in names and identity not in used.categories:
            name = names[entry["id"]]
            findings.append(Finding(Kind.UNUSED_CATEGORY, "categories", index, name, category_id=identity))
    return findings


def _compare(reports: Sequence[Report]) -> list[Report]:
    """Adds what only shows when the splits lie side by side, to the report of the later one."""
    return [*reports[:1], *(_against(reports[0], other) for other in reports[1:])]


def _against(train: Report, other: Report) -> Report:
    """A report with what its split shares with the first, and with where its categories differ."""
    files = [with_numbers(report.file)[0] for report in (train, other)]
    names = [{(entry.get("id"), entry.get("name")) for entry in file.categories} for file in files]
    added = [
        Finding(Kind.DIFFERENT_CATEGORIES, "categories", 0, f"id {identity}, {name!r}: in one split only", repair=LEAVE)
        for identity, name in sorted(names[0] ^ names[1], key=str)
    ]
    found = leaks(files[0], train, files[1], other, split=train.split)
    return replace(other, findings=(*other.findings, *added, *found))
