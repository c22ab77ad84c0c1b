"""What `codetr data check` can find, and how a cleaned copy mends it. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from codetr.data.annotations import AnnotationFile

Level = Literal["error", "note"]
ListName = Literal["images", "annotations", "categories"]
LEAVE: Mapping[str, Any] = {}  # a repair that changes nothing


class Kind(Enum):
    """A kind of finding: its level and its title. Errors are what a cleaned copy is without."""

    MALFORMED_IMAGE = ("error", "image entries without an id or a file name")
    MALFORMED_ANNOTATION = ("error", "annotations without ids or a box of four numbers")
    MALFORMED_CATEGORY = ("error", "categories without an id or a name")
    LEAVES_FOLDER = ("error", "file names that lead out of the image folder")
    MISSING_IMAGE = ("error", "missing images")
    BAD_IMAGE = ("error", "truncated or undecodable images")
    WRONG_SIZE = ("error", "images of another size than stated")
    DUPLICATE_IMAGE_ID = ("error", "image ids used twice")
    DUPLICATE_FILE = ("error", "image files listed twice")
    UNKNOWN_IMAGE = ("error", "annotations of unknown images")
    UNKNOWN_CATEGORY = ("error", "annotations of unknown categories")
    DEGENERATE_BOX = ("error", "boxes without area")
    OUTSIDE_BOX = ("error", "boxes outside their image")
    CUT_BOX = ("error", "boxes across the border of their image")
    DUPLICATE_ANNOTATION_ID = ("error", "annotation ids used twice")
    DUPLICATE_ANNOTATION = ("error", "annotations given twice (same image, category and box)")
    DUPLICATE_CATEGORY_ID = ("error", "category ids used twice")
    DUPLICATE_CATEGORY_NAME = ("error", "category names used twice")
    DIFFERENT_CATEGORIES = ("error", "categories that differ between the splits")
    NO_BOXES = ("note", "images without boxes (kept: they train the background)")
    UNUSED_CATEGORY = ("note", "categories without boxes")
    NO_AREA = ("note", "annotations without an area (a cleaned copy states it)")
    SAME_CONTENT = ("note", "identical image files under several names")
    IN_BOTH_SPLITS = ("note", "images of the train split that are in the val split too")

    def __init__(self, level: Level, title: str) -> None:
        self.level = level
        self.title = title


@dataclass(frozen=True)
class Finding:
    """One thing that was found, in one entry of one list of the annotation file.

    index: position of the entry in its list. repair: new values for the entry, None to drop it, LEAVE if there is
    nothing to mend, or only a human can.
    """

    kind: Kind
    where: ListName
    index: int
    detail: str
    file: str | None = None
    image_id: int | None = None
    annotation_id: int | None = None
    category_id: int | None = None
    repair: Mapping[str, Any] | None = field(default_factory=dict)

    @property
    def is_lasting(self) -> bool:
        """True for an error that a cleaned copy still has."""
        return self.kind.level == "error" and self.repair == LEAVE

    def record(self) -> dict[str, Any]:
        """The finding as JSON, without what is not known."""
        known = {
            "kind": self.kind.name.lower(),
            "level": self.kind.level,
            "file": self.file,
            "image_id": self.image_id,
            "annotation_id": self.annotation_id,
            "category_id": self.category_id,
            "detail": self.detail,
        }
        return {key: value for key, value in known.items() if value is not None}

    def place(self) -> str:
        """Where it was found, in a few words."""
        parts = [
            self.file,
            None if self.image_id is None else f"image id {self.image_id}",
            None if self.annotation_id is None else f"annotation id {self.annotation_id}",
            None if self.category_id is None else f"category id {self.category_id}",
        ]
        return ", ".join(part for part in parts if part is not None) or f"{self.where}[{self.index}]"


@dataclass(frozen=True)
class Report:
    """What was found in one split.

    same_image, same_category: the id that stands for another one, where a file or a name is listed twice.
    digests: hash of the file by image id, for the images that were decoded.
    """

    split: str
    file: AnnotationFile
    images: Path
    findings: tuple[Finding, ...]
    same_image: Mapping[int, int]
    same_category: Mapping[int, int]
    digests: Mapping[int, bytes]

    def of(self, kind: Kind) -> list[Finding]:
        return [finding for finding in self.findings if finding.kind is kind]

    def count(self, level: Level) -> int:
        return sum(finding.kind.level == level for finding in self.findings)

    def record(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "annotations": str(self.file.path),
            "images": str(self.images),
            "counts": {
                "images": len(self.file.images),
                "annotations": len(self.file.annotations),
                "categories": len(self.file.categories),
            },
            "findings": [finding.record() for finding in self.findings],
        }
