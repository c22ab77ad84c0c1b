"""Ids that an exporter wrote as text, as the numbers that they stand for. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from codetr.data.annotations import AnnotationFile, Entry, meant_id
from codetr.data.findings import Finding, Kind, ListName

_KEYS: dict[ListName, tuple[str, ...]] = {
    "images": ("id",),
    "annotations": ("id", "image_id", "category_id"),
    "categories": ("id",),
}


def with_numbers(file: AnnotationFile) -> tuple[AnnotationFile, list[Finding]]:
    """The file as it is checked, with numbers for such ids, and a finding for each entry that has one."""
    findings: list[Finding] = []
    images = _numbered("images", file.images, findings)
    categories = _numbered("categories", file.categories, findings)
    annotations = _numbered("annotations", file.annotations, findings)
    return replace(file, images=images, annotations=annotations, categories=categories), findings


def _numbered(name: ListName, entries: Sequence[Entry], findings: list[Finding]) -> list[Entry]:
    changed = []
    for index, entry in enumerate(entries):
        meant = {key: meant_id(entry.get(key)) for key in _KEYS[name]}
        repair: dict[str, Any] = {key: value for key, value in meant.items() if value is not None}
        changed.append({**entry, **repair} if repair else entry)
        if repair:
            detail = ", ".join(f"{key} {entry[key]!r}" for key in repair)
            findings.append(_finding(name, index, changed[-1], detail, repair))
    return changed


def _finding(name: ListName, index: int, entry: Entry, detail: str, repair: dict[str, Any]) -> Finding:
    identity = entry["id"] if type(entry.get("id")) is int else None
    named = entry.get("file_name")
    return Finding(
        Kind.TEXT_ID,
        name,
        index,
        detail,
        file=named if isinstance(named, str) else None,
        image_id=identity if name == "images" else None,
        annotation_id=identity if name == "annotations" else None,
        category_id=identity if name == "categories" else None,
        repair=repair,
    )
