from __future__ import annotations

import json
from pathlib import Path

import pytest

from codetr.data.config import DataConfig, Split
from codetr.data.layout import LAYOUTS, open_annotations, recognise, splits_of
from codetr.errors import Notice, UserError


def _write(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": index, "file_name": name} for index, name in enumerate(names)]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))


def _touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def _found(root: Path, split: str = "train") -> tuple[str, str]:
    file, images = open_annotations(DataConfig(dir=root), split)  # type: ignore[arg-type]
    return str(file.path.relative_to(root)), str(images.relative_to(root))


def test_images_beside_annotations(tmp_path: Path) -> None:
    _write(tmp_path / "annotations/instances_train.json", "a.jpg")
    _touch(tmp_path / "images/a.jpg")
    assert _found(tmp_path) == ("annotations/instances_train.json", "images")


def test_a_folder_for_each_split(tmp_path: Path) -> None:
    for split in ("train", "val"):
        _write(tmp_path / f"annotations/instances_{split}.json", f"{split}.jpg")
        _touch(tmp_path / f"images/{split}/{split}.jpg")
    assert _found(tmp_path, "val") == ("annotations/instances_val.json", "images/val")


def test_file_names_may_hold_the_split(tmp_path: Path) -> None:
    _write(tmp_path / "annotations/instances_val.json", "val/a.jpg")
    _touch(tmp_path / "images/val/a.jpg")
    assert _found(tmp_path, "val") == ("annotations/instances_val.json", "images")


@pytest.mark.parametrize("folder", ["val2017", "images/val2017"])
def test_layout_of_coco(tmp_path: Path, folder: str) -> None:
    _write(tmp_path / "annotations/instances_val2017.json", "a.jpg")
    _touch(tmp_path / folder / "a.jpg")
    assert _found(tmp_path, "val") == ("annotations/instances_val2017.json", folder)


def test_explicit_files_start_at_the_folder(tmp_path: Path) -> None:
    _write(tmp_path / "set/labels/other.json", "a.jpg")
    _touch(tmp_path / "set/pictures/a.jpg")
    split = Split(annotations=Path("labels/other.json"), images=Path("pictures"))
    file, images = open_annotations(DataConfig(dir=tmp_path / "set", train=split), "train")
    assert (file.path, images) == (tmp_path / "set/labels/other.json", tmp_path / "set/pictures")


def test_explicit_annotations_without_a_folder_use_images_beside_them(tmp_path: Path) -> None:
    _write(tmp_path / "other.json", "a.jpg")
    _touch(tmp_path / "images/a.jpg")
    _, images = open_annotations(DataConfig(val=Split(annotations=tmp_path / "other.json")), "val")
    assert images == tmp_path / "images"


def _error(config: DataConfig) -> str:
    with pytest.raises(UserError) as caught:
        open_annotations(config, "train")
    return str(caught.value)


def test_no_data_at_all() -> None:
    assert "give data=DIR" in _error(DataConfig())


def test_a_misspelt_folder_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    message = _error(DataConfig(dir=tmp_path / "cels"))
    assert f"no folder {tmp_path / 'cels'}" in message
    assert f"did you mean {tmp_path / 'cells'}?" in message


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    assert f"(nor the folder {tmp_path / 'no'})" in _error(DataConfig(dir=tmp_path / "no" / "set"))


def test_a_file_for_a_folder(tmp_path: Path) -> None:
    _touch(tmp_path / "x.json")
    assert "is a file, not a folder" in _error(DataConfig(dir=tmp_path / "x.json"))


def test_a_folder_without_annotations_says_what_is_there(tmp_path: Path) -> None:
    _touch(*(tmp_path / f"{number:02}.jpg" for number in range(12)))
    message = _error(DataConfig(dir=tmp_path))
    assert "annotations/instances_train.json or annotations/instances_train2017.json" in message
    assert "found there: 00.jpg, 01.jpg" in message
    assert "and 4 more" in message


@pytest.mark.parametrize("wrong", [".", "set/images", "set/annotations"])
def test_a_folder_too_high_or_too_low_names_the_right_one(tmp_path: Path, wrong: str) -> None:
    _write(tmp_path / "set/annotations/instances_train.json", "a.jpg")
    _touch(tmp_path / "set/images/a.jpg")
    assert f"did you mean data={tmp_path / 'set'}?" in _error(DataConfig(dir=tmp_path / wrong))


def test_annotations_of_another_name_are_proposed(tmp_path: Path) -> None:
    _write(tmp_path / "annotations/training.json")
    _write(tmp_path / "zzz.json")
    assert "say data.train.annotations=annotations/training.json" in _error(DataConfig(dir=tmp_path))


def test_a_missing_image_folder(tmp_path: Path) -> None:
    _write(tmp_path / "annotations/instances_train.json", "a.jpg")
    (tmp_path / "pictures").mkdir()
    message = _error(DataConfig(dir=tmp_path))
    assert f"{tmp_path / 'images'}/" in message
    assert "found in" in message and "pictures/" in message
    assert "data.train.images=DIR" in message


def test_a_wrong_explicit_file_names_the_nearest(tmp_path: Path) -> None:
    _write(tmp_path / "labels.json")
    message = _error(DataConfig(train=Split(annotations=tmp_path / "label.json")))
    assert message.startswith("data.train.annotations: no file")
    assert "labels.json?" in message


def _name_of(root: Path) -> str | None:
    layout = recognise(root)
    return None if layout is None else layout.name


def test_the_first_layout_that_fits_both_splits_is_taken(tmp_path: Path) -> None:
    assert _name_of(tmp_path) is None
    assert splits_of(tmp_path) == ()
    _write(tmp_path / "annotations/instances_val2017.json", "a.jpg")
    assert _name_of(tmp_path) == "COCO"
    assert splits_of(tmp_path) == ("val",)
    _touch(*(tmp_path / kind / split / "a.txt" for kind in ("images", "labels") for split in ("train", "val", "test")))
    assert _name_of(tmp_path) == "YOLO"  # which has both
    assert splits_of(tmp_path) == ("train", "val", "test")
    _write(tmp_path / "annotations/instances_train2017.json", "a.jpg")
    assert _name_of(tmp_path) == "COCO"
    _write(tmp_path / "annotations/lvis_v1_train.json", "a.jpg")
    _write(tmp_path / "annotations/lvis_v1_val.json", "a.jpg")
    assert _name_of(tmp_path) == "COCO"


def test_a_folder_of_no_layout_lists_them_all(tmp_path: Path) -> None:
    _touch(tmp_path / "a.txt")
    message = _error(DataConfig(dir=tmp_path))
    assert "found there: a.txt\nLooked for\n" in message
    lines = message.splitlines()
    assert [line.strip().partition(":")[0] for line in lines[2:]] == [layout.name for layout in LAYOUTS]


def test_a_layout_without_the_split_names_what_it_would_be(tmp_path: Path) -> None:
    _touch(tmp_path / "images/val/a.jpg", tmp_path / "labels/val/a.txt", tmp_path / "classes.txt")
    message = _error(DataConfig(dir=tmp_path))
    assert (
        f"no train annotations in {tmp_path}, which is in the YOLO layout; looked for data.yaml that names" in message
    )
    assert "images/train with labels/train" in message


def test_a_yaml_file_for_its_folder(tmp_path: Path) -> None:
    _touch(tmp_path / "set/data.yaml")
    assert f"give data={tmp_path / 'set'}" in _error(DataConfig(dir=tmp_path / "set/data.yaml"))


def test_missing_images_are_left_out_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "annotations/instances_train.json"
    _write(path, "a.jpg", "b.jpg", "../c.jpg")
    content = json.loads(path.read_text())
    content["images"] = [{**entry, "width": 4, "height": 3} for entry in content["images"]]
    content["annotations"] = [{"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 1, 1]} for i in range(3)]
    path.write_text(json.dumps(content))
    _touch(tmp_path / "images/a.jpg")
    assert len(open_annotations(DataConfig(dir=tmp_path), "train")[0].images) == 3
    with pytest.warns(Notice, match=r"1 of 3 images are left out, whose files are missing or unreadable: b\.jpg$"):
        file, _ = open_annotations(DataConfig(dir=tmp_path, on_bad_image="skip"), "train")
    assert [entry["id"] for entry in file.images] == [0, 2]  # a name that leaves the folder is never passed over
    assert [entry["id"] for entry in file.annotations] == [0, 2]


def test_a_given_image_folder_goes_with_a_layout(tmp_path: Path) -> None:
    _write(tmp_path / "annotations/instances_train.json", "a.jpg")
    _touch(tmp_path / "pictures/a.jpg")
    _, images = open_annotations(DataConfig(dir=tmp_path, train=Split(images=Path("pictures"))), "train")
    assert images == tmp_path / "pictures"
