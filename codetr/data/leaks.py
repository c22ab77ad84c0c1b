"""Images of one split that are in another too, or look like one of it. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from codetr.data.annotations import AnnotationFile, is_id
from codetr.data.duplicates import Words, alike_between
from codetr.data.findings import LEAVE, Finding, Kind


class Hashes(Protocol):
    """Hashes of the files of a split by image id: of their bytes, and of what they look like."""

    @property
    def digests(self) -> Mapping[int, bytes]: ...

    @property
    def prints(self) -> Mapping[int, Words]: ...


def leaks(
    train: AnnotationFile, train_hashes: Hashes, other: AnnotationFile, other_hashes: Hashes, *, split: str
) -> list[Finding]:
    """A finding for each such image of `other`. Both files have numbers as ids. split: the name of `train`."""
    files = {digest: identity for identity, digest in train_hashes.digests.items()}
    alike = alike_between(other_hashes.prints, train_hashes.prints)
    names = {entry["id"]: str(entry.get("file_name")) for entry in train.images if is_id(entry.get("id"))}
    found = []
    for index, entry in enumerate(other.images):
        if not is_id(entry.get("id")):
            continue
        identity: int = entry["id"]
        digest = other_hashes.digests.get(identity)
        kind = None
        if digest is not None and digest in files:
            kind, detail = Kind.IN_BOTH_SPLITS, f"the same as image id {files[digest]} of {split}"
        elif identity in alike:
            near = alike[identity]
            kind = Kind.LEAK
            detail = f"looks like {names[near.other]} (image id {near.other} of {split}{near.manner})"
        if kind is not None:
            name = str(entry.get("file_name"))
            found.append(Finding(kind, "images", index, detail, file=name, image_id=identity, repair=LEAVE))
    return found
