from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest

from codetr.data.annotations import annotation_flaw, category_flaw, image_flaw, meant_id, read_annotations
from codetr.errors import UserError


def _read(path: Path, **content: Any) -> str:
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": [], **content}))
    return read_annotations(path).dialect


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.json: the file is empty"),
        (b" \n", "a.json: the file is empty"),
        (b"{}", "'images' must be a list of objects; the keys found are nothing"),
        (b"[]", "this is a list or a value"),
        (
            b'{"images": [], "annotations": [',
            "a.json:1:32: not valid JSON (Expecting value); the file may be incomplete",
        ),
        (b'{"images": [], "annotations": [1], "categories": []}', "'annotations' must be a list of objects"),
        (b"\xff\xd8\xff", "not a text file"),
        (b"[" * 100_000, "no annotation file (maximum recursion depth"),
        (b'{"images": ' + b"9" * 5000 + b"}", "no annotation file (Exceeds the limit"),
    ],
    ids=["empty", "blank", "no lists", "a list", "truncated", "wrong entries", "an image", "nested", "a long number"],
)
def test_what_is_no_annotation_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_annotations(tmp_path / "a.json")
    assert message in str(caught.value)
    assert gc.isenabled()


def test_the_dialect_is_told_by_fields_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert _read(path) == "coco"
    assert _read(path, images=[{"file_name": "a.jpg"}], categories=[{"name": "cat"}]) == "coco"
    assert _read(path, images=[{"neg_category_ids": []}]) == "lvis"
    assert _read(path, categories=[{"frequency": "r"}]) == "lvis"
    assert _read(path, images=[{"file_name": "images/v1/patch8/objects365_v1_00420917.jpg"}]) == "objects365"
    assert _read(path, annotations=[{"isreflected": 0}]) == "objects365"


def test_ids_as_texts_are_told_apart_from_other_values() -> None:
    values = ["12", "0", "-1", "", "1.0", "x", "\u0661", "9" * 30, 3, None, True]
    assert [meant_id(value) for value in values] == [12, 0, *[None] * 9]
    cure = "`codetr data check DIR --fix OUT` writes numbers for such ids"
    assert category_flaw({"id": "1", "name": "cat"}) == f"id must be an integer, found '1'; {cure}"
    assert image_flaw({"id": "7", "file_name": "a"}) == f"id must be an integer, found '7'; {cure}"
    entry = {"id": 1, "image_id": 1, "category_id": "3", "bbox": [0, 0, 1, 1]}
    assert annotation_flaw(entry) == f"category_id must be an integer, found '3'; {cure}"
    assert category_flaw({"id": "one", "name": "cat"}) == "id must be an integer, found 'one'"
    assert annotation_flaw({**entry, "category_id": 3}) is None
