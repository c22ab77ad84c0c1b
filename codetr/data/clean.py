"""Writes a copy of a data set without the errors that a check found. Imports no torch."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codetr.data.annotations import Entry, ImageFolder, is_id, stated_size
from codetr.data.findings import LEAVE, REMOVED, Finding, ListName, Report
from codetr.data.turning import turned_back
from codetr.errors import UserError


def write_clean(reports: Sequence[Report], root: Path, out: Path) -> None:
    """Writes `out`, a data folder of the same layout as `root`, with mended annotation files and the images they keep.

    Images become hard links, or copies where the file system has no links between the two places. Nothing under `root`
    is changed. Raises: UserError if `out` exists and is not empty, or lies in `root`.
    """
    inside = out.resolve() == root.resolve() or root.resolve() in out.resolve().parents
    if inside or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        reason = f"lies in {root}, which stays as it is" if inside else "exists already"
        raise UserError(f"--fix {out}: the folder {reason}; name a new one")
    try:
        _write(reports, root, out)
    except OSError as error:
        raise UserError(f"--fix {out}: cannot be written ({error})") from error


def _write(reports: Sequence[Report], root: Path, out: Path) -> None:
    for report in reports:
        content = cleaned(report)
        for name, one in (("images", "image"), ("categories", "category")):
            if not content[name]:
                raise UserError(f"--fix {out}: no {one} of {report.file.path} can be used, so nothing would be left")
        target, folder = _places(report, root, out)
        target.parent.mkdir(parents=True, exist_ok=True)
        _link_images(content["images"], ImageFolder(report.images), folder)
        target.write_text(json.dumps(content), encoding="utf-8")


def cleaned(report: Report) -> dict[str, Any]:
    """The annotation file without its errors: entries mended or dropped as the findings say."""
    images = _mended(report, "images")
    categories = _mended(report, "categories")
    sizes = {entry["id"]: stated_size(entry) for entry in images}
    mended = _mended(report, "annotations")
    free = max((entry["id"] for entry in mended if is_id(entry["id"])), default=0) + 1
    annotations = []
    for entry in mended:
        size, orientation = sizes.get(entry["image_id"]), report.turned.get(entry["image_id"])
        if orientation is not None and size is not None:
            entry = turned_back(entry, orientation, size)
        entry["image_id"] = report.same_image.get(entry["image_id"], entry["image_id"])
        entry["category_id"] = report.same_category.get(entry["category_id"], entry["category_id"])
        entry.setdefault("iscrowd", 0)
        if entry["id"] is None:
            entry["id"] = free
            free += 1
        if entry["image_id"] in sizes:
            annotations.append(entry)
    return {**report.file.extra, "images": images, "annotations": annotations, "categories": categories}


def _mended(report: Report, name: ListName) -> list[dict[str, Any]]:
    """The entries of one list that are kept, each a copy with its repairs."""
    by_index: dict[int, list[Finding]] = defaultdict(list)
    for finding in report.findings:
        if finding.where == name and finding.repair != LEAVE:
            by_index[finding.index].append(finding)
    entries: Sequence[Entry] = getattr(report.file, name)
    mended = []
    for index, entry in enumerate(entries):
        repairs = [finding.repair for finding in by_index[index]]
        if None not in repairs:
            changes = {key: value for repair in repairs if repair for key, value in repair.items()}
            mended.append({key: value for key, value in {**entry, **changes}.items() if value is not REMOVED})
    return mended


def _link_images(images: Sequence[Entry], source: ImageFolder, target: Path) -> None:
    for entry in images:
        found = source.find(entry["file_name"])
        if found is None:
            raise UserError(f"{source.root / entry['file_name']}: disappeared while the copy was made")
        place = target / entry["file_name"]
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():
            continue  # listed by the other split too
        real = os.path.realpath(found)
        try:
            os.link(real, place)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(real, place)


def _places(report: Report, root: Path, out: Path) -> tuple[Path, Path]:
    """Annotation file and image folder of the copy: as they were, and COCO's where there was no JSON file."""
    if report.file.path.suffix != ".json":
        return out / "annotations" / f"instances_{report.split}.json", out / "images" / report.split
    target = out / _relative(report.file.path, root, Path("annotations", report.file.path.name))
    return target, out / _relative(report.images, root, Path("images"))


def _relative(path: Path, root: Path, otherwise: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else otherwise
