from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codetr.data.coco import CocoDataset
from codetr.data.layout import open_folder, recognise, splits_of
from codetr.errors import UserError

from .conftest import voc_xml

Picture = Callable[..., Path]
Write = Callable[[Path, str], Path]

SIZE = "<size><width>40</width><height>30</height><depth>3</depth></size>"


def _object(name: str, *box: float, more: str = "") -> str:
    tags = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{tags}</bndbox></object>"


def _xml(*objects: str, size: str = SIZE, name: str = "stale.jpg") -> str:
    return f"<annotation><folder>x</folder><filename>{name}</filename>{size}{''.join(objects)}</annotation>"


@pytest.fixture
def folder(tmp_path: Path, picture: Picture, write_text: Write) -> Path:
    for name in ("a.jpg", "b 1.png", "c.jpg"):
        picture(tmp_path / "JPEGImages" / name)
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    hard = "<difficult>1</difficult>"
    write_text(
        tmp_path / "Annotations/a.xml", _xml(_object("dog", 1, 1, 40, 30, more=part), _object("cat", 3, 4, 3, 8))
    )
    write_text(tmp_path / "Annotations/b 1.xml", _xml(_object("dog", 10.5, 2, 20, 9.25, more=hard)))
    write_text(tmp_path / "Annotations/c.xml", _xml(_object("ant", 1, 1, 2, 2)))
    write_text(tmp_path / "ImageSets/Main/train.txt", "a\nb 1\n")
    write_text(tmp_path / "ImageSets/Main/val.txt", "c.jpg\n")
    return tmp_path


def test_pixels_start_at_one_and_include_both_ends(folder: Path) -> None:
    file, images = open_folder(folder, "train")
    assert (file.path, images) == (folder / "ImageSets/Main/train.txt", folder / "JPEGImages")
    assert file.images == [
        {"id": 1, "file_name": "a.jpg", "height": 30, "width": 40},
        {"id": 2, "file_name": "b 1.png", "height": 30, "width": 40},
    ]
    # `ant` is only in the other split, and is numbered all the same.
    assert file.categories == [{"id": 1, "name": "ant"}, {"id": 2, "name": "cat"}, {"id": 3, "name": "dog"}]
    assert file.annotations == [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 40, 30], "area": 1200, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [2, 3, 1, 5], "area": 5, "iscrowd": 0},
        {"id": 3, "image_id": 2, "category_id": 3, "bbox": [9.5, 1, 10.5, 8.25], "area": 86.625, "iscrowd": 1},
    ]


def test_a_difficult_object_is_an_ignored_region(folder: Path) -> None:
    dataset = CocoDataset(*open_folder(folder, "train"))
    assert dataset.classes == ("ant", "cat", "dog")
    assert dataset[1].boxes.shape == (0, 4)
    assert dataset[1].ignore_boxes.tolist() == [[9.5, 1, 20, 9.25]]
    assert (dataset.dropped, dataset.clipped) == (0, 0)


def test_a_name_with_a_suffix_in_the_list(folder: Path) -> None:
    assert [entry["file_name"] for entry in open_folder(folder, "val")[0].images] == ["c.jpg"]


def test_trainval_and_test_where_there_is_nothing_else(folder: Path) -> None:
    lists = folder / "ImageSets/Main"
    (lists / "train.txt").rename(lists / "trainval.txt")
    (lists / "val.txt").rename(lists / "test.txt")
    assert splits_of(folder) == ("train", "val", "test")
    assert open_folder(folder, "train")[0].path == lists / "trainval.txt"
    assert open_folder(folder, "val")[0].path == lists / "test.txt"


@pytest.mark.parametrize(
    "size", ["", "<size><width>0</width><height>0</height></size>", "<size><width>x</width></size>"]
)
def test_a_size_that_is_not_stated_is_read_from_the_image(folder: Path, write_text: Write, size: str) -> None:
    write_text(folder / "Annotations/a.xml", _xml(_object("dog", 1, 1, 2, 2), size=size))
    assert open_folder(folder, "train")[0].images[0] == {"id": 1, "file_name": "a.jpg", "height": 30, "width": 40}


def test_the_stated_file_name_counts_where_its_own_has_no_image(folder: Path, write_text: Write) -> None:
    (folder / "JPEGImages/a.jpg").rename(folder / "JPEGImages/other.jpg")
    write_text(folder / "Annotations/a.xml", _xml(name="other.jpg"))
    assert open_folder(folder, "train")[0].images[0]["file_name"] == "other.jpg"
    write_text(folder / "Annotations/a.xml", _xml(name="../../secret.jpg"))
    assert open_folder(folder, "train")[0].images[0]["file_name"] == "a.jpg"  # never a path from the XML


def test_beside_the_images_as_roboflow_exports(tmp_path: Path, picture: Picture, write_text: Write) -> None:
    for split, name in (("train", "a"), ("valid", "b")):
        picture(tmp_path / split / f"{name}.jpg")
        write_text(tmp_path / split / f"{name}.xml", _xml(_object(f"class {name}", 1, 1, 2, 2)))
    layout = recognise(tmp_path)
    assert layout is not None and layout.name == "Pascal VOC"
    file, images = open_folder(tmp_path, "val")
    assert (file.path, images) == (tmp_path / "valid", tmp_path / "valid")
    assert [entry["name"] for entry in file.categories] == ["class a", "class b"]
    assert file.annotations[0]["category_id"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", "not valid XML"),
        ("", "not valid XML"),
        (_xml("<object><bndbox/></object>"), "a.xml: object 1 has no name"),
        (_xml(_object("dog", 1, 1, 2, 2), "<object><name>dog</name></object>"), "object 2 (dog) needs a bndbox with"),
        (_xml("<object><name>dog</name><bndbox><xmin>one</xmin></bndbox></object>"), "object 1 (dog) needs a bndbox"),
    ],
)
def test_what_cannot_be_used_is_named(folder: Path, write_text: Write, text: str, message: str) -> None:
    write_text(folder / "Annotations/a.xml", text)
    with pytest.raises(UserError) as caught:
        open_folder(folder, "train")
    assert str(folder / "Annotations/a.xml") in str(caught.value)
    assert message in str(caught.value)


def test_missing_xml_files_are_counted(folder: Path) -> None:
    (folder / "Annotations/b 1.xml").unlink()
    with pytest.raises(UserError, match=r"train\.txt: 1 of 2 have no XML file in .*Annotations: b 1"):
        open_folder(folder, "train")


def test_a_list_cannot_name_another_folder(folder: Path, write_text: Write) -> None:
    write_text(folder / "ImageSets/Main/train.txt", "../a\n")
    with pytest.raises(UserError, match=r"'\.\./a' is no name of an image"):
        open_folder(folder, "train")


def test_round_trip_of_a_real_set(real: tuple[dict[str, Any], Path], tmp_path: Path, write_text: Write) -> None:
    content, images = real
    os.symlink(images, tmp_path / "JPEGImages")
    for image in content["images"]:
        write_text(tmp_path / f"Annotations/{Path(image['file_name']).stem}.xml", voc_xml(content, image))
    write_text(tmp_path / "ImageSets/Main/val.txt", "\n".join(Path(e["file_name"]).stem for e in content["images"]))
    file, _ = open_folder(tmp_path, "val")
    assert [entry["file_name"] for entry in file.images] == [entry["file_name"] for entry in content["images"]]
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    wanted = [
        [
            (names[e["category_id"]], e["bbox"], e.get("iscrowd", 0))
            for e in content["annotations"]
            if e["image_id"] == i["id"]
        ]
        for i in content["images"]
    ]
    found_names = {entry["id"]: entry["name"] for entry in file.categories}
    assert sum(map(len, wanted)) == len(content["annotations"]) > 500
    for number, rows in enumerate(wanted, start=1):
        own = [entry for entry in file.annotations if entry["image_id"] == number]
        assert [(found_names[e["category_id"]], e["iscrowd"]) for e in own] == [
            (name, crowd) for name, _, crowd in rows
        ]
        for entry, (_, box, _) in zip(own, rows, strict=True):
            assert entry["bbox"] == pytest.approx(box, abs=1e-9)  # float64: adding and taking away 1 at up to 640
