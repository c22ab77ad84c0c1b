from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codetr.data.coco import CocoDataset
from codetr.data.layout import open_folder, recognise, splits_of

ROOT = {"id": 0, "name": "balls", "supercategory": "none"}
RED = {"id": 1, "name": "red", "supercategory": "balls"}
BLUE = {"id": 2, "name": "blue", "supercategory": "balls"}


@pytest.fixture
def export(tmp_path: Path, picture: Callable[..., Path]) -> Callable[..., Path]:
    """An export with the categories and the category ids of its annotations."""

    def write(categories: list[dict[str, Any]], used: list[int]) -> Path:
        for split in ("train", "valid", "test"):
            picture(tmp_path / split / "a_jpg.rf.0f.jpg")
            images = [{"id": 0, "file_name": "a_jpg.rf.0f.jpg", "width": 40, "height": 30}]
            boxes = [{"id": i, "image_id": 0, "category_id": c, "bbox": [1, 2, 3, 4]} for i, c in enumerate(used)]
            content = {"images": images, "annotations": boxes, "categories": categories}
            (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content))
        return tmp_path

    return write


def test_images_beside_the_file_and_valid_is_val(export: Callable[..., Path]) -> None:
    root = export([ROOT, RED, BLUE], [1, 2])
    layout = recognise(root)
    assert layout is not None and layout.name == "Roboflow COCO"
    assert splits_of(root) == ("train", "val", "test")
    file, images = open_folder(root, "val")
    assert (file.path, images) == (root / "valid/_annotations.coco.json", root / "valid")
    dataset = CocoDataset(file, images)
    assert (dataset.classes, dataset[0].labels.tolist()) == (("red", "blue"), [0, 1])


@pytest.mark.parametrize(
    ("categories", "used", "kept"),
    [
        ([ROOT, RED, BLUE], [1], ["red", "blue"]),
        ([ROOT, RED, BLUE], [0, 1], ["balls", "red", "blue"]),  # it has objects
        ([{**ROOT, "name": "red"}, {**RED, "supercategory": "red"}], [1], ["red"]),  # called as its class
        ([{**ROOT, "name": "cat"}, RED], [1], ["cat", "red"]),  # nobody's supercategory
        ([ROOT], [], ["balls"]),
        ([{**ROOT, "id": 3}, RED], [1], ["balls", "red"]),
    ],
)
def test_the_unused_superclass_is_no_class(
    export: Callable[..., Path], categories: list[dict[str, Any]], used: list[int], kept: list[str]
) -> None:
    file, _ = open_folder(export(categories, used), "train")
    assert [entry["name"] for entry in file.categories] == kept
