from __future__ import annotations

from typing import Any

import pytest

from codetr.errors import UserError
from codetr.evaluation.truth import GroundTruth

IMAGE = {"id": 9, "neg_category_ids": [7, 3], "not_exhaustive_category_ids": [4]}
CATEGORIES: list[dict[str, Any]] = [
    {"id": 7, "name": "dog", "frequency": "c", "image_count": 40},
    {"id": 3, "name": "cat", "frequency": "f"},
    {"id": 4, "name": "eel", "frequency": "r", "image_count": 1},
]
OTHER = {"id": 2, "neg_category_ids": [], "not_exhaustive_category_ids": []}


def parse(images: list[dict[str, Any]], categories: list[dict[str, Any]] = CATEGORIES) -> GroundTruth:
    return GroundTruth.parse({"images": images, "categories": categories, "annotations": []}, file="gt.json")


def test_positions_follow_ascending_ids() -> None:
    truth = parse([IMAGE, OTHER])
    assert truth.is_federated and truth.federated is not None
    assert truth.federated.negative.tolist() == [[1, 2], [1, 0]]
    assert truth.federated.not_exhaustive.tolist() == [[1, 1]]
    assert truth.federated.frequencies == ("f", "r", "c")
    assert truth.federated.image_counts.tolist() == [-1, 1, 40]


def test_a_coco_file_has_none() -> None:
    truth = parse([{"id": 1}], [{"id": 1, "name": "cat"}])
    assert truth.federated is None and not truth.is_federated


@pytest.mark.parametrize(
    ("images", "categories", "message"),
    [
        ([IMAGE, {"id": 2}], CATEGORIES, "image 2 has no list `neg_category_ids`"),
        ([{**IMAGE, "not_exhaustive_category_ids": None}], CATEGORIES, "image 9 has no list `not_exhaustive"),
        ([{**IMAGE, "neg_category_ids": [5]}], CATEGORIES, "image 9 names category 5, .* run from 3 to 7"),
        ([{**IMAGE, "neg_category_ids": ["7"]}], CATEGORIES, "image 9 names category '7'"),
        ([{**IMAGE, "neg_category_ids": [[7]]}], CATEGORIES, r"image 9 names category \[7\]"),
        ([OTHER], [{"id": 7}], "category 7 has no `frequency`"),
        ([OTHER], [{"id": 7, "frequency": "rare"}], "category 7 has the frequency 'rare'"),
        ([OTHER], [{"id": 7, "frequency": "r", "image_count": "1"}], "category 7 has the image_count '1'"),
    ],
)
def test_faults_are_named(images: list[dict[str, Any]], categories: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=f"gt.json: .*{message}"):
        parse(images, categories)
