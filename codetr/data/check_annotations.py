"""The annotations of a file, checked against its images and categories. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from codetr.data.annotations import Entry, annotation_flaw, clipped, is_crowd, is_cut, is_empty, is_id
from codetr.data.box_order import form_of, relative_boxes
from codetr.data.check_images import ImageFacts
from codetr.data.findings import LEAVE, REMOVED, Finding, Kind
from codetr.data.segments import segment_flaw

BoxForm = Literal["coco", "corners", "corner and size", "centre and size", "unclear"]
_LARGEST_AREA = 1e18


@dataclass
class Used:
    """What the annotations have used: images and categories by id, and what identifies an annotation."""

    ids: set[int] = field(default_factory=set)
    keys: dict[tuple[Any, ...], int] = field(default_factory=dict)
    images: set[int] = field(default_factory=set)
    categories: set[int] = field(default_factory=set)


def check_annotations(
    annotations: Sequence[Entry], facts: ImageFacts, names: Mapping[int, str], same_category: Mapping[int, int]
) -> tuple[list[Finding], Used]:
    """What is wrong, and what is used. names: of the categories by id. same_category: ids that stand for another."""
    used = Used()
    findings: list[Finding] = []
    form = _form(annotations, facts)
    with_segments = any(entry.get("segmentation") for entry in annotations)
    for index, entry in enumerate(annotations):
        if form != "coco" and _is_judged(entry, facts):
            mended = {**entry, "bbox": _in_pixels(entry["bbox"], form, facts.sizes[entry["image_id"]])}
            findings.append(_form_finding(index, entry, mended["bbox"], form, facts))
            entry = mended
        found = _check(index, entry, facts, names, same_category, used)
        if (
            with_segments
            and not entry.get("segmentation")
            and not is_crowd(entry)
            and all(finding.repair is not None for finding in found)
        ):
            found.append(_no_segment(index, entry, facts))
        findings += found
    return findings, used


def _no_segment(index: int, entry: Entry, facts: ImageFacts) -> Finding:
    return Finding(
        Kind.NO_SEGMENT,
        "annotations",
        index,
        "",
        file=facts.names.get(entry["image_id"]),
        image_id=entry["image_id"],
        annotation_id=entry["id"],
        repair=LEAVE,
    )


def _form(annotations: Sequence[Entry], facts: ImageFacts) -> BoxForm:
    """How the boxes of the file are written."""
    known = [entry for entry in annotations if _is_judged(entry, facts)]
    boxes = [entry["bbox"] for entry in known]
    sizes = [facts.sizes[entry["image_id"]] for entry in known]
    form = form_of(boxes, sizes, [entry.get("area") for entry in known])
    return (relative_boxes(boxes) or "unclear") if form == "relative" else form


def _is_judged(entry: Entry, facts: ImageFacts) -> bool:
    return annotation_flaw(entry) is None and entry["image_id"] in facts.sizes


def _in_pixels(box: list[float], form: BoxForm, size: tuple[int, int]) -> list[float]:
    """A box as [x, y, width, height] in pixels; as it is, if nobody knows what it means."""
    x, y, width, height = box
    if form == "corners":
        return [x, y, width - x, height - y]
    if form == "unclear":
        return box
    if form == "centre and size":
        x, y = x - width / 2, y - height / 2
    rows, columns = size
    return [round(value, 3) for value in (x * columns, y * rows, width * columns, height * rows)]


def _form_finding(index: int, entry: Entry, box: list[float], form: BoxForm, facts: ImageFacts) -> Finding:
    meaning = {"corner and size": ", [x, y, width, height]", "centre and size": ", [centre x, centre y, width, height]"}
    return Finding(
        Kind.CORNER_BOXES if form == "corners" else Kind.RELATIVE_BOXES,
        "annotations",
        index,
        f"bbox {entry['bbox']}{meaning.get(form, '')}",
        file=facts.names.get(entry["image_id"]),
        image_id=entry["image_id"],
        annotation_id=entry["id"],
        repair=LEAVE if form == "unclear" else _repair(entry, box),
    )


def _repair(entry: Entry, box: list[float]) -> dict[str, Any]:
    """The box, and its area where that was the product of the wrong numbers."""
    _, _, width, height = entry["bbox"]
    area = entry.get("area")
    stale = is_area(area) and abs(area - width * height) <= 0.01 * width * height
    return {"bbox": box, "area": box[2] * box[3]} if stale else {"bbox": box}


def _check(
    index: int,
    entry: Entry,
    facts: ImageFacts,
    names: Mapping[int, str],
    same_category: Mapping[int, int],
    used: Used,
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


def _mendable(entry: Entry, draft: Finding, size: tuple[int, int] | None, used: Used) -> list[Finding]:
    findings: list[Finding] = []
    box = entry["bbox"]
    if entry["id"] in used.ids:
        # The cleaned copy numbers such annotations anew; see `clean`.
        detail = "used by an earlier annotation"
        findings.append(replace(draft, kind=Kind.DUPLICATE_ANNOTATION_ID, detail=detail, repair={"id": None}))
    used.ids.add(entry["id"])
    segment = _check_segment(entry, draft, size)
    has_segment = bool(entry.get("segmentation")) and (
        segment is None or REMOVED not in (segment.repair or {}).values()
    )
    area = box[2] * box[3]
    if size is not None and is_cut(box, size):
        x1, y1, x2, y2 = clipped(box, size)
        inside = [x1, y1, x2 - x1, y2 - y1]
        detail = f"bbox {box} in an image of {size[1]} x {size[0]}"
        repair: dict[str, Any] = {"bbox": inside}
        area = inside[2] * inside[3]
        if not has_segment:
            repair["area"] = area
        findings.append(replace(draft, kind=Kind.CUT_BOX, detail=detail, repair=repair))
    if segment is not None:
        findings.append(segment)
    if not is_area(entry.get("area")):
        detail = f"area {entry['area']!r}" if "area" in entry else ""
        findings.append(replace(draft, kind=Kind.NO_AREA, detail=detail, repair={"area": area}))
    return findings


def _check_segment(entry: Entry, draft: Finding, size: tuple[int, int] | None) -> Finding | None:
    """A cleaned copy keeps the polygons that are sound, or no segmentation."""
    segment = entry.get("segmentation")
    flaw = segment_flaw(segment, size) if segment else None
    if flaw is None:
        return None
    sound = [part for part in segment if segment_flaw([part], size) is None] if isinstance(segment, list) else []
    return replace(draft, kind=Kind.BAD_SEGMENT, detail=flaw, repair={"segmentation": sound or REMOVED})


def is_area(value: object) -> bool:
    """True for a number that can be the area of an object."""
    return type(value) in (int, float) and 0 <= value < _LARGEST_AREA  # type: ignore[operator]


def _identity(entry: Entry, key: str) -> int | None:
    value = entry.get(key)
    return value if isinstance(value, int) and is_id(value) else None
