from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codetr.data.annotations import AnnotationFile, read_annotations
from codetr.data.coco import CocoDataset
from codetr.data.config import DataConfig, Split
from codetr.data.layout import open_annotations, open_folder, recognise
from codetr.errors import Notice, UserError

Picture = Callable[..., Path]

LVIS_TRAIN = [
    {
        "id": 391895,
        "coco_url": "http://images.cocodataset.org/train2017/000000391895.jpg",
        "width": 40,
        "height": 30,
        "neg_category_ids": [2],
        "not_exhaustive_category_ids": [1],
    }
]
LVIS_CATEGORIES = [{"id": 1, "name": "acorn", "frequency": "r"}, {"id": 2, "name": "cat", "frequency": "f"}]
LACKED = "images/v2/patch16/objects365_v2_00908726.jpg"


def _write(path: Path, images: list[dict[str, Any]], categories: Any = None, annotations: Any = ()) -> AnnotationFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    categories = categories or [{"id": 1, "name": "Cabinet/shelf"}]
    path.write_text(json.dumps({"images": images, "annotations": list(annotations), "categories": categories}))
    return read_annotations(path)


def _box(identity: int, image: int, **more: Any) -> dict[str, Any]:
    return {"id": identity, "image_id": image, "category_id": 1, "bbox": [1.5, 2, 3, 4], "area": 12, **more}


def _objects365(*names: str) -> list[dict[str, Any]]:
    return [{"id": i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names, start=5)]


class TestLvis:
    @pytest.mark.parametrize("annotations", ["annotations/lvis_v1_train.json", "lvis_v1_train.json"])
    @pytest.mark.parametrize("images", ["set", "set/images", "coco", "coco/images"])
    def test_images_in_the_folders_of_coco(
        self, tmp_path: Path, picture: Picture, annotations: str, images: str
    ) -> None:
        _write(tmp_path / "set" / annotations, LVIS_TRAIN, LVIS_CATEGORIES, [_box(1, 391895)])
        picture(tmp_path / images / "train2017/000000391895.jpg")
        layout = recognise(tmp_path / "set")
        assert layout is not None and layout.name == "LVIS"
        file, folder = open_folder(tmp_path / "set", "train")
        assert (file.dialect, folder) == ("lvis", tmp_path / images)
        assert file.images == [
            {**LVIS_TRAIN[0], "file_name": "train2017/000000391895.jpg"}
        ]  # all that LVIS says is kept
        assert file.categories == LVIS_CATEGORIES
        assert CocoDataset(file, folder)[0].boxes.tolist() == [[1.5, 2, 4.5, 6]]

    def test_val_has_images_of_train2017_too(self, tmp_path: Path, picture: Picture) -> None:
        urls = [
            f"http://images.cocodataset.org/{folder}2017/00000000000{i}.jpg"
            for i, folder in enumerate(["val", "train"])
        ]
        _write(tmp_path / "lvis_v1_val.json", [{**LVIS_TRAIN[0], "id": i, "coco_url": u} for i, u in enumerate(urls)])
        picture(tmp_path / "train2017/000000000001.jpg")
        picture(tmp_path / "val2017/000000000000.jpg")
        file, _ = open_folder(tmp_path, "val")
        names = ["val2017/000000000000.jpg", "train2017/000000000001.jpg"]
        assert [entry["file_name"] for entry in file.images] == names

    def test_minival_is_val_where_there_is_no_other(self, tmp_path: Path, picture: Picture) -> None:
        picture(tmp_path / "train2017/000000391895.jpg")
        _write(tmp_path / "lvis_v1_minival.json", LVIS_TRAIN)
        assert open_folder(tmp_path, "val")[0].path.name == "lvis_v1_minival.json"
        _write(tmp_path / "lvis_v1_val.json", LVIS_TRAIN)
        assert open_folder(tmp_path, "val")[0].path.name == "lvis_v1_val.json"

    @pytest.mark.parametrize("url", [{"coco_url": "http://images.cocodataset.org/val2017/000000266409.jpg"}, {}])
    @pytest.mark.parametrize("place", ["val2017", "."])
    def test_file_names_of_version_0_5(self, tmp_path: Path, picture: Picture, url: dict[str, str], place: str) -> None:
        entry = {"id": 266409, "file_name": "COCO_val2014_000000266409.jpg", "width": 40, "height": 30, **url}
        picture(tmp_path / "images" / place / "000000266409.jpg")
        _write(tmp_path / "lvis_v0.5_val.json", [entry | {"neg_category_ids": []}])
        config = DataConfig(dir=tmp_path, val=Split(images=tmp_path / "images/val2017" if place != "." else None))
        file, folder = open_annotations(config, "val")
        assert (folder / file.images[0]["file_name"]).resolve() == tmp_path / "images" / place / "000000266409.jpg"

    def test_a_given_image_folder_of_one_year(self, tmp_path: Path, picture: Picture) -> None:
        path = _write(tmp_path / "a.json", LVIS_TRAIN).path
        picture(tmp_path / "pictures/000000391895.jpg")
        config = DataConfig(train=Split(annotations=path, images=tmp_path / "pictures"))
        file, folder = open_annotations(config, "train")
        assert (file.images[0]["file_name"], folder) == ("000000391895.jpg", tmp_path / "pictures")

    def test_without_its_images_it_says_what_to_download(self, tmp_path: Path) -> None:
        _write(tmp_path / "lvis_v1_train.json", LVIS_TRAIN)
        with pytest.raises(UserError) as caught:
            open_folder(tmp_path, "train")
        message = str(caught.value)
        assert "none of its images was found; looked for train2017/000000391895.jpg or 000000391895.jpg" in message
        assert "http://images.cocodataset.org/zips/train2017.zip" in message

    def test_the_real_file(self, tmp_path: Path, picture: Picture) -> None:
        path = Path(__file__).resolve().parents[3].parent / "shared/data/eval/lvis_val_100.json"
        if not path.is_file():
            pytest.skip(f"{path} is not there")
        (tmp_path / "lvis_v0.5_val.json").symlink_to(path)
        content = json.loads(path.read_text())
        for entry in content["images"]:
            picture(tmp_path / f"val2017/{entry['id']:012d}.jpg", 1, 1)
        file, folder = open_folder(tmp_path, "val")
        dataset = CocoDataset(file, folder)
        assert (file.dialect, len(dataset)) == ("lvis", 100)
        assert len(dataset.classes) == len(content["categories"]) > 1000
        assert sum(dataset.object_counts()) == len(content["annotations"])


class TestObjects365:
    @pytest.mark.parametrize("annotations", ["annotations/", "", "train/"])
    @pytest.mark.parametrize(
        ("place", "folder", "name"),
        [
            ("train/patch8/a.jpg", "train", "patch8/a.jpg"),
            ("images/train/patch8/a.jpg", "images/train", "patch8/a.jpg"),
            ("train/images/v1/patch8/a.jpg", "train", "images/v1/patch8/a.jpg"),
            ("images/v1/patch8/a.jpg", ".", "images/v1/patch8/a.jpg"),
            ("images/train/a.jpg", "images/train", "a.jpg"),
            ("train/a.jpg", "train", "a.jpg"),
        ],
    )
    def test_patches_as_they_are_unpacked(
        self, tmp_path: Path, picture: Picture, annotations: str, place: str, folder: str, name: str
    ) -> None:
        own = "objects365_v1_00420917.jpg"
        path = tmp_path / annotations / "zhiyuan_objv2_train.json"
        _write(path, _objects365(f"images/v1/patch8/{own}"), annotations=[_box(1, 5, isfake=0, isreflected=1)])
        picture(tmp_path / place.replace("a.jpg", own))
        file, images = open_folder(tmp_path, "train")
        assert (file.dialect, images) == ("objects365", tmp_path / folder)
        assert [entry["file_name"] for entry in file.images] == [name.replace("a.jpg", own)]
        assert file.annotations[0]["isreflected"] == 1
        assert CocoDataset(file, images).classes == ("Cabinet/shelf",)

    def test_images_that_the_archives_lack_are_left_out_with_a_count(self, tmp_path: Path, picture: Picture) -> None:
        names = ["images/v1/patch8/objects365_v1_00420917.jpg", LACKED, "images/v1/patch6/objects365_v1_00320532.jpg"]
        boxes = [_box(1, 5), _box(2, 6), _box(3, 7)]
        _write(tmp_path / "zhiyuan_objv2_train.json", _objects365(*names), annotations=boxes)
        picture(tmp_path / "train/patch8/objects365_v1_00420917.jpg")
        with pytest.warns(Notice, match="2 of 3 images are left out, which the official archives lack: patch16/"):
            file, images = open_annotations(DataConfig(dir=tmp_path), "train")
        assert [entry["id"] for entry in file.images] == [5]
        assert [entry["id"] for entry in file.annotations] == [1]
        assert len(CocoDataset(file, images)) == 1

    def test_an_image_on_that_list_is_used_where_it_exists(self, tmp_path: Path, picture: Picture) -> None:
        _write(tmp_path / "zhiyuan_objv2_train.json", _objects365(LACKED))
        picture(tmp_path / "train/patch16/objects365_v2_00908726.jpg")
        file, _ = open_annotations(DataConfig(dir=tmp_path), "train")
        assert [entry["file_name"] for entry in file.images] == ["patch16/objects365_v2_00908726.jpg"]

    def test_patches_that_were_not_downloaded(self, tmp_path: Path, picture: Picture) -> None:
        names = [f"images/v1/patch{i}/objects365_v1_0000000{i}.jpg" for i in range(6)]
        boxes = [_box(i + 1, 5 + i) for i in range(6)]
        _write(tmp_path / "zhiyuan_objv2_val.json", _objects365(*names), annotations=boxes)
        for i in range(2):
            picture(tmp_path / f"val/patch{i}/objects365_v1_0000000{i}.jpg")
        with pytest.raises(UserError, match=r"4 of 6 images are not in .*val: patch2/.* and 1 more"):
            CocoDataset(*open_annotations(DataConfig(dir=tmp_path), "val"))
        with pytest.warns(
            Notice, match="4 of 6 images are left out, whose files are missing or unreadable: .* and 1 more"
        ):
            file, images = open_annotations(DataConfig(dir=tmp_path, on_bad_image="skip"), "val")
        assert CocoDataset(file, images).object_counts() == [1, 1]

    def test_boxes_at_and_over_the_border(self, tmp_path: Path, picture: Picture) -> None:
        boxes = [[-2.5, 1, 10, 10], [30, 20, 50.25, 60], [45, 5, 5, 5], [3, 3, 0, 4], [4, 4, 6, 6]]
        annotations = [_box(i, 5) | {"bbox": box, "iscrowd": int(i == 5)} for i, box in enumerate(boxes, start=1)]
        picture(tmp_path / "train/patch8/objects365_v1_1.jpg")
        names = _objects365("images/v1/patch8/objects365_v1_1.jpg")
        _write(tmp_path / "zhiyuan_objv2_train.json", names, annotations=annotations)
        dataset = CocoDataset(*open_folder(tmp_path, "train"))
        assert dataset[0].boxes.tolist() == [[0, 1, 7.5, 11], [30, 20, 40, 30]]
        assert dataset[0].ignore_boxes.tolist() == [[4, 4, 10, 10]]
        assert (dataset.dropped, dataset.clipped) == (2, 2)
