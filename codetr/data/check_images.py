"""The image entries of an annotation file, checked against the files on disk. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codetr.data.annotations import AnnotationFile, Entry, ImageFolder, image_flaw, is_id, stated_size
from codetr.data.duplicates import Words, alike_earlier
from codetr.data.findings import LEAVE, Finding, Kind
from codetr.data.images import TURNED
from codetr.data.look import Depth, Look, look_at_all

Progress = Callable[[int, int], None]


@dataclass
class ImageFacts:
    """What the image entries say.

    listed: every id in the file. sizes: height and width by id, of the file where it could be read and as stated
    otherwise; absent if neither is known. names: file name by id. same: the id that stands for another one with the
    same file. digests: hash of the file by id. prints: perceptual hash by id. turned: EXIF orientation by id, where the
    annotations follow it, and with them `sizes`.
    """

    listed: set[int] = field(default_factory=set)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    same: dict[int, int] = field(default_factory=dict)
    digests: dict[int, bytes] = field(default_factory=dict)
    prints: dict[int, Words] = field(default_factory=dict)
    turned: dict[int, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def check_images(
    file: AnnotationFile, folder: ImageFolder, *, depth: Depth = "whole", progress: Progress | None = None
) -> ImageFacts:
    """Looks at every image, as deep as `depth` says, and compares all of them if they were decoded.

    progress: called with the number of images done and of all images.
    """
    facts = ImageFacts()
    present = list(_present(file, folder, facts))
    looks = look_at_all([path for _, _, path in present], depth)
    for done, ((index, entry, _), look) in enumerate(zip(present, looks, strict=True), start=1):
        _judge(index, entry, look, facts)
        if progress is not None:
            progress(done, len(present))
    _compare(file, facts)
    return facts


def _present(file: AnnotationFile, folder: ImageFolder, facts: ImageFacts) -> Iterator[tuple[int, Entry, Path]]:
    """The entries whose file exists, each file once; the others become findings."""
    first: dict[Path, int] = {}
    for index, entry in enumerate(file.images):
        flaw = image_flaw(entry)
        identity = entry.get("id") if is_id(entry.get("id")) else None
        if flaw is not None:
            _drop(Kind.MALFORMED_IMAGE, index, entry, flaw, facts)
        elif identity in facts.listed:
            _drop(Kind.DUPLICATE_IMAGE_ID, index, entry, f"the id of {facts.names[entry['id']]} too", facts)
        else:
            path = _find(index, entry, folder, facts)
            if path is not None and path in first:
                facts.same[entry["id"]] = first[path]
                _drop(Kind.DUPLICATE_FILE, index, entry, f"the file of image id {first[path]} too", facts)
            elif path is not None:
                first[path] = entry["id"]
                yield index, entry, path
        if identity is not None:
            facts.listed.add(identity)
            facts.names.setdefault(identity, str(entry.get("file_name")))


def _find(index: int, entry: Entry, folder: ImageFolder, facts: ImageFacts) -> Path | None:
    stated = stated_size(entry)
    if stated is not None:
        facts.sizes[entry["id"]] = stated
    if folder.leaves(entry["file_name"]):
        _drop(Kind.LEAVES_FOLDER, index, entry, f"leads out of {folder.root}", facts)
        return None
    path = folder.find(entry["file_name"])
    if path is None:
        is_folder = os.path.isdir(folder.root / entry["file_name"])  # False for a name that is too long
        detail = f"it is a folder in {folder.root}" if is_folder else f"not in {folder.root}"
        _drop(Kind.MISSING_IMAGE, index, entry, detail, facts)
    return path


def _judge(index: int, entry: Entry, look: Look, facts: ImageFacts) -> None:
    identity = entry["id"]
    if look.size is None or (look.problem is not None and not look.is_sound):
        _drop(Kind.BAD_IMAGE, index, entry, look.problem or "", facts)
        return
    if look.digest is not None:
        facts.digests[identity] = look.digest
    if look.print is not None:
        facts.prints[identity] = look.print
    if look.problem is not None:
        facts.findings.append(_finding(Kind.TOO_LARGE, index, entry, look.problem, LEAVE))
    elif look.is_reduced:
        detail = f"{look.size[1]} x {look.size[0]} pixels"
        facts.findings.append(_finding(Kind.REDUCED, index, entry, detail, LEAVE))
    _judge_size(index, entry, look.size, look.orientation, facts)


def _judge_size(index: int, entry: Entry, size: tuple[int, int], orientation: int, facts: ImageFacts) -> None:
    """Compares the size that an entry states with that of its file."""
    identity, stated = entry["id"], stated_size(entry)
    facts.sizes[identity] = size
    if stated == size:
        if orientation != 1:
            detail = f"EXIF orientation {orientation}"
            facts.findings.append(_finding(Kind.ORIENTED, index, entry, detail, LEAVE))
        return
    repair = {"width": size[1], "height": size[0]}
    detail = f"{size[1]} x {size[0]} pixels, stated {entry.get('width')} x {entry.get('height')}"
    if stated == size[::-1] and orientation in TURNED:
        facts.sizes[identity], facts.turned[identity] = stated, orientation
        detail = f"{detail}: as its EXIF orientation {orientation} shows it, which is ignored here as in COCO"
        facts.findings.append(_finding(Kind.TURNED, index, entry, detail, repair))
    else:
        facts.findings.append(_finding(Kind.WRONG_SIZE, index, entry, detail, repair))


def _compare(file: AnnotationFile, facts: ImageFacts) -> None:
    """Finds identical files, and images that look alike."""
    first: dict[bytes, int] = {}
    alike = alike_earlier(facts.prints)
    for index, entry in enumerate(file.images):
        if not is_id(entry.get("id")):
            continue
        identity: int = entry["id"]
        digest = facts.digests.get(identity)
        original = identity if digest is None else first.setdefault(digest, identity)
        if original != identity:
            detail = f"the same as {facts.names[original]} (image id {original})"
            facts.findings.append(_finding(Kind.SAME_CONTENT, index, entry, detail, LEAVE))
        elif identity in alike:
            other = alike[identity].other
            detail = f"looks like {facts.names[other]} (image id {other}{alike[identity].manner})"
            facts.findings.append(_finding(Kind.LOOK_ALIKE, index, entry, detail, LEAVE))


def _drop(kind: Kind, index: int, entry: Entry, detail: str, facts: ImageFacts) -> None:
    facts.findings.append(_finding(kind, index, entry, detail, None))


def _finding(kind: Kind, index: int, entry: Entry, detail: str, repair: Any) -> Finding:
    identity = entry.get("id") if is_id(entry.get("id")) else None
    name = entry.get("file_name")
    file = name if isinstance(name, str) else None
    return Finding(kind, "images", index, detail, file=file, image_id=identity, repair=repair)
