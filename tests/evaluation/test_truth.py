from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from codetr.data.annotations import AnnotationFile
from codetr.errors import UserError
from codetr.evaluation.truth import GroundTruth

CONTENT: dict[str, Any] = {
    "images": [{"id": 9, "height": 40, "width": 50}, {"id": 2, "height": 30, "width": 20}],
    "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 9, "category_id": 3, "bbox": [1, 2, 10, 5], "area": 44.5, "iscrowd": 1},
        {"id": 2, "image_id": 2, "category_id": 7, "bbox": [0, 0, 4, 6]},
    ],
}


def parse(**changes: Any) -> GroundTruth:
    return GroundTruth.parse({**CONTENT, **changes}, file="gt.json")


def annotation(**changes: Any) -> dict[str, Any]:
    return {**CONTENT["annotations"][0], **changes}


def test_columns_follow_ascending_ids() -> None:
    truth = parse()
    assert truth.image_ids.tolist() == [2, 9]
    assert truth.image_sizes.tolist() == [[30, 20], [40, 50]]
    assert truth.category_ids.tolist() == [3, 7]
    assert truth.names == ("cat", "dog")
    assert truth.image_index.tolist() == [1, 0]
    assert truth.category_index.tolist() == [0, 1]
    assert truth.crowd.tolist() == [True, False]
    assert truth.areas.tolist() == [44.5, 24.0]  # the box's, where the file gives none


def test_the_file_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "gt.json"
    file.write_text(json.dumps(CONTENT))
    content = copy.deepcopy(CONTENT)
    GroundTruth.load(file)
    GroundTruth.parse(content, file="gt.json")
    assert json.loads(file.read_text()) == CONTENT
    assert content == CONTENT


def test_what_a_reader_of_annotations_returns() -> None:
    file = AnnotationFile(Path("gt.json"), CONTENT["images"], CONTENT["annotations"], CONTENT["categories"], {})
    truth = GroundTruth.of(file)
    assert (truth.file, truth.names) == ("gt.json", ("cat", "dog"))
    assert truth.boxes.tolist() == parse().boxes.tolist()
    assert truth.objects() == [0, 1]  # a crowd region is none


def test_names_that_do_not_tell_categories_apart_carry_the_id() -> None:
    truth = parse(categories=[{"id": 3, "name": "cat"}, {"id": 7, "name": "cat"}, {"id": 8}])
    assert truth.names == ("cat (3)", "cat (7)", "(8)")


def test_classes_are_found_by_name() -> None:
    assert parse().ids_of(("dog", "cat"), (1, 2)) == (7, 3)


def test_other_classes_are_named() -> None:
    with pytest.raises(
        UserError, match=r"has 2 classes .* trained on 3: only the model knows cow, fish; only .* has dog"
    ):
        parse().ids_of(("cat", "cow", "fish"), (1, 2, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [annotation(category_id=5)]}, r"annotation 1 names category 5, .* run from 3 to 7"),
        ({"annotations": [annotation(image_id=5)]}, r"annotation 1 names image 5, .* run from 2 to 9"),
        ({"annotations": [annotation(image_id="9")]}, r"annotation 1 names image '9'"),
        ({"annotations": [annotation(bbox=[1, 2, 3])]}, r"annotation 1 has the box \[1, 2, 3\]"),
        ({"annotations": [annotation(bbox=None)]}, r"annotation 1 has the box None"),
        ({"annotations": [annotation(bbox=[0, 0, float("nan"), 1])]}, r"annotation 1 has the box"),
        ({"annotations": [annotation(area="big")]}, r"annotation 1 has the area 'big'"),
        ({"annotations": [7]}, r"annotations\[0\] is not an object"),
        ({"annotations": None}, r"`annotations` is missing"),
        ({"images": None, "categories": None}, r"`images` and `categories` are missing"),
        ({"images": [], "annotations": []}, r"no images"),
        ({"images": [{"id": 1}, {"id": 1}]}, r"image id 1 occurs more than once"),
        ({"images": [{"id": "a"}]}, r"'a' is not a valid image id"),
    ],
)
def test_faults_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"gt.json: .*{message}"):
        parse(**changes)


def test_a_list_is_told_to_be_results() -> None:
    with pytest.raises(UserError, match="results as --predictions"):
        GroundTruth.parse([], file="dt.json")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such annotation file"):
        GroundTruth.load(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read"):
        GroundTruth.load(tmp_path)
    cut = tmp_path / "cut.json"
    cut.write_text('{"images": [\n{"id": 1},')
    with pytest.raises(UserError, match=r"cut.json:2:\d+: .* not valid JSON"):
        GroundTruth.load(cut)
    cut.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match="not a text file"):
        GroundTruth.load(cut)


def test_masks_need_segmentations_and_sizes() -> None:
    with pytest.raises(UserError, match=r"2 of 2 annotations have no `segmentation` .* annotations\[0\]"):
        parse().require_masks()
    with_mask = annotation(segmentation=[[1, 1, 5, 1, 5, 5]])
    parse(annotations=[with_mask]).require_masks()
    with pytest.raises(UserError, match="image 9 has no `height`"):
        parse(annotations=[with_mask], images=[{"id": 9}]).require_masks()
