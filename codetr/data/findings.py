"""What `codetr data check` can find, and how a cleaned copy mends it. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from codetr.data.annotations import AnnotationFile
from codetr.data.duplicates import Words

Level = Literal["error", "note"]
ListName = Literal["images", "annotations", "categories"]
LEAVE: Mapping[str, Any] = {}  # a repair that changes nothing
REMOVED = object()
LONGEST = 120  # letters of a file name that are shown


class Kind(Enum):
    """A kind of finding: its level and its title. Errors are what a cleaned copy is without."""

    EMPTY_LIST = ("error", "lists without entries, so that there is nothing to train on")
    MALFORMED_IMAGE = ("error", "image entries without an id or a file name")
    MALFORMED_ANNOTATION = ("error", "annotations without ids or a box of four numbers")
    MALFORMED_CATEGORY = ("error", "categories without an id or a name")
    TEXT_ID = ("error", "ids written as text (a cleaned copy has numbers)")
    LEAVES_FOLDER = ("error", "file names that lead out of the image folder")
    MISSING_IMAGE = ("error", "missing images")
    BAD_IMAGE = ("error", "truncated or undecodable images")
    TOO_LARGE = ("error", "images that are larger than data.max_pixels and must be decoded whole")
    WRONG_SIZE = ("error", "images of another size than stated")
    TURNED = ("error", "images annotated as their EXIF orientation shows them (a cleaned copy turns the annotations)")
    DUPLICATE_IMAGE_ID = ("error", "image ids used twice")
    DUPLICATE_FILE = ("error", "image files listed twice")
    CORNER_BOXES = ("error", "boxes written as corners [x1, y1, x2, y2] (a cleaned copy has [x, y, width, height])")
    RELATIVE_BOXES = ("error", "boxes written as shares of the image (a cleaned copy has pixels)")
    UNKNOWN_IMAGE = ("error", "annotations of unknown images")
    UNKNOWN_CATEGORY = ("error", "annotations of unknown categories")
    DEGENERATE_BOX = ("error", "boxes without area")
    OUTSIDE_BOX = ("error", "boxes outside their image")
    CUT_BOX = ("error", "boxes across the border of their image")
    BAD_SEGMENT = ("error", "segmentations that cannot be decoded (a cleaned copy keeps the box)")
    DUPLICATE_ANNOTATION_ID = ("error", "annotation ids used twice")
    DUPLICATE_ANNOTATION = ("error", "annotations given twice (same image, category and box)")
    DUPLICATE_CATEGORY_ID = ("error", "category ids used twice")
    DUPLICATE_CATEGORY_NAME = ("error", "category names used twice")
    DIFFERENT_CATEGORIES = ("error", "categories that differ between the splits")
    ORIENTED = ("note", "images whose EXIF orientation is ignored, as in COCO (do their boxes fit the stored pixels?)")
    REDUCED = ("note", "images that are larger than data.max_pixels and decoded at a reduced size")
    NO_BOXES = ("note", "images without boxes (kept: they train the background)")
    UNUSED_CATEGORY = ("note", "categories without boxes")
    NO_SEGMENT = ("note", "objects without a segmentation where others have one (data.masks needs one of each)")
    NO_AREA = ("note", "annotations without an area (a cleaned copy states it)")
    SAME_CONTENT = ("note", "identical image files under several names")
    LOOK_ALIKE = ("note", "images that look like an earlier one of their split (copies, crops, near views)")
    IN_BOTH_SPLITS = ("note", "images of another split that are in the train split too")
    LEAK = ("note", "images of another split that look like one of the train split (copies, crops, near views)")

    def __init__(self, level: Level, title: str) -> None:
        self.level = level
        self.title = title


def brief(name: str) -> str:
    """A name of any length, short enough to be read."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}...{name[-LONGEST // 2 :]}"


@dataclass(frozen=True)
class Finding:
    """One thing that was found, in one entry of one list of the annotation file.

    index: position of the entry in its list. repair: new values for the entry, None to drop it, LEAVE if there is
    nothing to mend, or only a human can. A new value REMOVED takes the key out.
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
            None if self.file is None else brief(self.file),
            None if self.image_id is None else f"image id {self.image_id}",
            None if self.annotation_id is None else f"annotation id {self.annotation_id}",
            None if self.category_id is None else f"category id {self.category_id}",
        ]
        return ", ".join(part for part in parts if part is not None) or f"{self.where}[{self.index}]"


@dataclass(frozen=True)
class Report:
    """What was found in one split.

    same_image, same_category: the id that stands for another one, where a file or a name is listed twice.
    digests: hash of the file by image id, for the images that were decoded. prints: their perceptual hashes.
    turned: EXIF orientation by image id, where the annotations follow it.
    """

    split: str
    file: AnnotationFile
    images: Path
    findings: tuple[Finding, ...]
    same_image: Mapping[int, int]
    same_category: Mapping[int, int]
    digests: Mapping[int, bytes] = field(default_factory=dict)
    prints: Mapping[int, Words] = field(default_factory=dict)
    turned: Mapping[int, int] = field(default_factory=dict)

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
