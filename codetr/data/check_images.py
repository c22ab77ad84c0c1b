"""The image entries of an annotation file, checked against the files on disk. Imports no torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codetr.data.annotations import AnnotationFile, Entry, ImageFolder, image_flaw, is_id, stated_size
from codetr.data.findings import Finding, Kind
from codetr.data.images import BadImage, decode, image_size, is_turned, read_bytes

Progress = Callable[[int, int], None]


@dataclass
class ImageFacts:
    """What the image entries say.

    listed: every id in the file. sizes: height and width by id, of the file where it could be read and as stated
    otherwise; absent if neither is known. names: file name by id. same: the id that stands for another one with the
    same file. digests: hash of the file by id.
    """

    listed: set[int] = field(default_factory=set)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    same: dict[int, int] = field(default_factory=dict)
    digests: dict[int, bytes] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class _Look:
    """What one image file turned out to be."""

    size: tuple[int, int] | None
    digest: bytes | None = None
    problem: str | None = None


def check_images(
    file: AnnotationFile, folder: ImageFolder, *, decode_all: bool, progress: Progress | None
) -> ImageFacts:
    """Looks at every image; decodes it to its end, or reads its header alone without `decode_all`."""
    facts = ImageFacts()
    present = list(_present(file, folder, facts))
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:  # decoders release the interpreter's lock
        looks = pool.map(_decode if decode_all else _read_header, [path for _, _, path in present])
        for done, ((index, entry, path), look) in enumerate(zip(present, looks, strict=True), start=1):
            _judge(index, entry, path, look, facts)
            if progress is not None:
                progress(done, len(present))
    _find_same_content(file, facts)
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
        _drop(Kind.MISSING_IMAGE, index, entry, f"not in {folder.root}", facts)
    return path


def _judge(index: int, entry: Entry, path: Path, look: _Look, facts: ImageFacts) -> None:
    if look.size is None:
        _drop(Kind.BAD_IMAGE, index, entry, look.problem or "", facts)
        return
    facts.sizes[entry["id"]] = look.size
    if look.digest is not None:
        facts.digests[entry["id"]] = look.digest
    if stated_size(entry) == look.size:
        return
    height, width = look.size
    hint = "; its EXIF orientation, which is ignored, turns it" if is_turned(path) else ""
    detail = f"{width} x {height} pixels, stated {entry.get('width')} x {entry.get('height')}{hint}"
    repair = {"width": width, "height": height}
    facts.findings.append(_finding(Kind.WRONG_SIZE, index, entry, detail, repair))


def _find_same_content(file: AnnotationFile, facts: ImageFacts) -> None:
    first: dict[bytes, int] = {}
    for index, entry in enumerate(file.images):
        digest = facts.digests.get(entry["id"]) if is_id(entry.get("id")) else None
        if digest is None:
            continue
        original = first.setdefault(digest, entry["id"])
        if original != entry["id"]:
            detail = f"the same as {facts.names[original]} (image id {original})"
            facts.findings.append(_finding(Kind.SAME_CONTENT, index, entry, detail, {}))


def _drop(kind: Kind, index: int, entry: Entry, detail: str, facts: ImageFacts) -> None:
    facts.findings.append(_finding(kind, index, entry, detail, None))


def _finding(kind: Kind, index: int, entry: Entry, detail: str, repair: dict[str, Any] | None) -> Finding:
    identity = entry.get("id") if is_id(entry.get("id")) else None
    name = entry.get("file_name")
    file = name if isinstance(name, str) else None
    return Finding(kind, "images", index, detail, file=file, image_id=identity, repair=repair)


def _decode(path: Path) -> _Look:
    try:
        content = read_bytes(path)
        height, width = decode(content, path).shape[:2]
    except BadImage as error:
        return _Look(None, problem=str(error))
    return _Look((height, width), hashlib.blake2b(content, digest_size=16).digest())


def _read_header(path: Path) -> _Look:
    try:
        return _Look(image_size(path))
    except BadImage as error:
        return _Look(None, problem=str(error))
