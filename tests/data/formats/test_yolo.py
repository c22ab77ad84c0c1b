from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from codetr.data.coco import CocoDataset
from codetr.data.layout import open_folder, recognise, splits_of
from codetr.errors import UserError

from .conftest import yolo_lines

Picture = Callable[..., Path]
Write = Callable[[Path, str], Path]


@pytest.fixture
def folder(tmp_path: Path, picture: Picture, write_text: Write) -> Path:
    """Two images to train on, the second without objects; one to validate on."""
    picture(tmp_path / "images/train/a.jpg")
    picture(tmp_path / "images/train/b c.PNG", 20, 10)
    picture(tmp_path / "images/val/c.jpg")
    write_text(tmp_path / "labels/train/a.txt", "1 0.5 0.5 0.25 0.2\n\n0 0 0 0.5 0 0.5 1\n")
    write_text(tmp_path / "labels/val/c.txt", "0 0.25 0.25 0.5 0.5\n")
    write_text(tmp_path / "data.yaml", "path: .\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: no}\n")
    return tmp_path


def test_boxes_polygons_and_an_image_without_a_label_file(folder: Path) -> None:
    file, images = open_folder(folder, "train")
    assert (file.path, images) == (folder / "data.yaml", folder / "images/train")
    assert file.categories == [{"id": 1, "name": "cat"}, {"id": 2, "name": "no"}]  # not the boolean of YAML
    assert file.images == [
        {"id": 1, "file_name": "a.jpg", "height": 30, "width": 40},
        {"id": 2, "file_name": "b c.PNG", "height": 10, "width": 20},
    ]
    box, polygon = file.annotations
    assert {key: box[key] for key in box if key not in ("bbox", "area")} == {
        "id": 1,
        "image_id": 1,
        "category_id": 2,
        "iscrowd": 0,
    }
    assert box["bbox"] == pytest.approx([15, 12, 10, 6])
    assert box["area"] == pytest.approx(60)
    assert polygon["category_id"] == 1
    assert polygon["bbox"] == pytest.approx([0, 0, 20, 30])
    assert polygon["segmentation"] == [pytest.approx([0, 0, 20, 0, 20, 30])]
    assert polygon["area"] == pytest.approx(300)  # half of its box
    assert file.notes == ()


def test_a_data_set_of_it_has_pixels_and_labels(folder: Path) -> None:
    dataset = CocoDataset(*open_folder(folder, "train"))
    assert dataset.classes == ("cat", "no")
    assert dataset[0].boxes.tolist() == [pytest.approx([15, 12, 25, 18]), pytest.approx([0, 0, 20, 30])]
    assert dataset[0].labels.tolist() == [1, 0]
    assert dataset[1].boxes.shape == (0, 4)


@pytest.mark.parametrize(
    "names", ["names:\n- cat\n- dog\n", "names: {1: dog, 0: cat}\n", 'names: {"0": cat, "1": dog}\n']
)
def test_names_as_a_list_or_a_mapping(folder: Path, write_text: Write, names: str) -> None:
    write_text(folder / "data.yaml", f"train: images/train\nval: images/val\n{names}")
    assert [entry["name"] for entry in open_folder(folder, "val")[0].categories] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: {0: cat, 2: dog}\n", "must be numbered 0 to 1, found 0, 2"),
        ("names: 3\n", "names must be a list of class names"),
        ("names: [[cat]]\n", "names must be a list of class names"),
        ("names: [cat\n", "not readable as YAML"),
        ("names: !!python/object/apply:os.system ['exit']\n", "class 1 is not among the 1 classes"),  # a list of one
        ("nc: 1\n", "class 1 is not among the 1 classes"),
        ("names: [cat, dog]\ntrain: ../elsewhere\n", "'../elsewhere' was not found in"),
        ("names: [cat, dog]\ntrain: /etc\n", "'/etc' was not found in"),
    ],
)
def test_a_description_that_cannot_be_used(folder: Path, write_text: Write, text: str, message: str) -> None:
    write_text(folder / "data.yaml", text)
    with pytest.raises(UserError) as caught:
        open_folder(folder, "train")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 .5 .5 .1 .1", "class 2 is not among the 2 classes"),
        ("-1 .5 .5 .1 .1", "class -1 is not among"),
        ("0.5 .5 .5 .1 .1", "class 0.5 is not among"),
        ("0 .5 .5 .1", "a box has 5 numbers and a polygon 7 or more, an odd number of them; found 4"),
        ("0 .1 .1 .2 .1 .2", "found 6"),
        ("0 .1 .1 .2 .1 .2 .2 .3", "found 8"),
        ("0 20 15 10 6", "coordinates are normalised by the size of the image, 0 to 1; found 20"),
        ("0 nan .5 .1 .1", "not finite"),
        ("cat .5 .5 .1 .1", "numbers are expected, found 'cat .5"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(folder: Path, write_text: Write, line: str, message: str) -> None:
    path = write_text(folder / "labels/train/a.txt", f"0 .5 .5 .1 .1\n{line}\n")
    with pytest.raises(UserError) as caught:
        open_folder(folder, "train")
    assert f"lines of labels that cannot be used: 1\n  {path}:2: " in str(caught.value)
    assert message in str(caught.value)


def test_many_bad_lines_are_counted(folder: Path, write_text: Write) -> None:
    write_text(folder / "labels/train/a.txt", "9 .5 .5 .1 .1\n" * 7)
    with pytest.raises(UserError, match="lines of labels that cannot be used: 7") as caught:
        open_folder(folder, "train")
    assert str(caught.value).endswith("and 4 more")


def test_an_overhanging_box_is_kept_for_clipping(folder: Path, write_text: Write) -> None:
    write_text(folder / "labels/train/a.txt", "0 1 1 .5 .5\n")
    dataset = CocoDataset(*open_folder(folder, "train"))
    assert (dataset.clipped, dataset[0].boxes.tolist()) == (1, [[30, 22.5, 40, 30]])


def test_key_points_of_a_pose_set_are_left_out(folder: Path, write_text: Write) -> None:
    write_text(folder / "data.yaml", "train: images/train\nval: images/val\nnames: [cat]\nkpt_shape: [1, 3]\n")
    write_text(folder / "labels/train/a.txt", "0 .5 .5 .5 .5 400 300 2\n")
    (annotation,) = open_folder(folder, "train")[0].annotations
    assert annotation["bbox"] == pytest.approx([10, 7.5, 20, 15])


def test_without_any_label_file_the_folder_is_named(folder: Path) -> None:
    (folder / "labels/train/a.txt").unlink()
    with pytest.raises(UserError, match=r"no image has a label file; looked for .*labels/train/a\.txt"):
        open_folder(folder, "train")


def test_a_split_before_its_kind_with_class_names_in_a_text_file(
    tmp_path: Path, picture: Picture, write_text: Write
) -> None:
    picture(tmp_path / "train/images/a.jpg")
    picture(tmp_path / "valid/images/b.jpg")
    write_text(tmp_path / "train/labels/a.txt", "0 .5 .5 .5 .5")
    write_text(tmp_path / "valid/labels/b.txt", "1 .5 .5 .5 .5")
    with pytest.raises(UserError, match=r"nothing names the classes; add a data\.yaml"):
        open_folder(tmp_path, "train")
    write_text(tmp_path / "classes.txt", "cat\nbig dog\n")
    file, images = open_folder(tmp_path, "val")
    assert images == tmp_path / "valid/images"
    assert [entry["name"] for entry in file.categories] == ["cat", "big dog"]
    assert file.annotations[0]["category_id"] == 2
    assert splits_of(tmp_path) == ("train", "val")


def test_paths_of_roboflow_start_one_folder_too_high(tmp_path: Path, picture: Picture, write_text: Write) -> None:
    picture(tmp_path / "set/train/images/a.jpg")
    picture(tmp_path / "train/images/other.jpg")  # where the path would lead if it were taken as it is
    write_text(tmp_path / "set/train/labels/a.txt", "0 .5 .5 .5 .5")
    write_text(tmp_path / "set/data.yaml", "train: ../train/images\nval: ../train/images\nnc: 1\nnames: ['x']\n")
    file, images = open_folder(tmp_path / "set", "train")
    assert images == tmp_path / "set/train/images"
    assert [entry["file_name"] for entry in file.images] == ["a.jpg"]


def test_lists_of_images(folder: Path, picture: Picture, write_text: Write) -> None:
    picture(folder / "images/more/d.jpg")
    listed = write_text(folder / "train.txt", f"./images/train/a.jpg\nimages/more/d.jpg\n{folder}/images/val/c.jpg\n")
    write_text(folder / "data.yaml", "path: /where/it/was\ntrain: train.txt\nval: [images/val]\nnames: [cat, dog]\n")
    file, images = open_folder(folder, "train")
    assert images == folder
    assert [entry["file_name"] for entry in file.images] == [
        "images/train/a.jpg",
        "images/more/d.jpg",
        "images/val/c.jpg",
    ]
    assert [entry["image_id"] for entry in file.annotations] == [1, 1, 3]
    write_text(listed, "images/train/a.jpg\n../../etc/passwd.jpg\n")
    with pytest.raises(UserError, match=r"train\.txt:2: .* leads out of the data folder"):
        open_folder(folder, "train")


def test_several_folders_are_one_split(folder: Path, write_text: Write) -> None:
    write_text(folder / "data.yaml", "train: [images/train, images/val]\nval: images/val\nnames: [cat, dog]\n")
    file, images = open_folder(folder, "train")
    assert [entry["file_name"] for entry in file.images] == [
        "images/train/a.jpg",
        "images/train/b c.PNG",
        "images/val/c.jpg",
    ]
    assert CocoDataset(file, images)[2].boxes.tolist() == [[0, 0, 20, 15]]


def test_labels_beside_images(tmp_path: Path, picture: Picture, write_text: Write) -> None:
    picture(tmp_path / "obj_train_data/a.jpg")
    write_text(tmp_path / "obj_train_data/a.txt", "0 .5 .5 .5 .5")
    write_text(tmp_path / "set.yaml", "train: obj_train_data\nval: obj_train_data\nnames: [x]\n")
    assert open_folder(tmp_path, "train")[0].annotations[0]["bbox"] == [10, 7.5, 20, 15]


def test_another_tools_yaml_is_no_description(folder: Path, write_text: Write) -> None:
    (folder / "data.yaml").rename(folder / "my set.yaml")
    write_text(folder / "a.yaml", "jobs: [train]\n")
    write_text(folder / "b.yml", "{{ template }}: [\n")
    layout = recognise(folder)
    assert layout is not None and layout.name == "YOLO"
    assert open_folder(folder, "val")[0].path == folder / "my set.yaml"


def test_an_image_folder_may_be_a_link(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("disk") / "train"
    (folder / "images/train").rename(elsewhere)
    os.symlink(elsewhere, folder / "images/train")
    assert len(CocoDataset(*open_folder(folder, "train"))) == 2


def test_an_unreadable_image_has_no_size(folder: Path) -> None:
    (folder / "images/train/a.jpg").write_bytes(b"")
    file, images = open_folder(folder, "train")
    assert file.images[0] == {"id": 1, "file_name": "a.jpg"}
    assert file.annotations == []
    with pytest.raises(UserError, match="image id 1: its width and height must be positive integers"):
        CocoDataset(file, images)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_labels_of_a_turned_picture_are_turned_back(
    folder: Path, picture: Picture, write_text: Write, orientation: int
) -> None:
    """The marked pixels of the picture as shown are those of the box in the picture as stored."""
    path = picture(folder / "images/train/a.png", 40, 30, orientation=orientation)
    (folder / "images/train/a.jpg").unlink()
    with Image.open(path) as image:
        shown = ImageOps.exif_transpose(image)
    width, height = shown.size
    box = (4, 6, 14, 9)  # x1, y1, x2, y2 of the picture as shown
    values = [9 / width, 7.5 / height, 10 / width, 3 / height]
    write_text(folder / "labels/train/a.txt", " ".join(map(str, [0, *values])))
    file, _ = open_folder(folder, "train")
    x, y, w, h = (round(value) for value in file.annotations[0]["bbox"])
    stored = Image.new("L", (40, 30))
    stored.paste(255, (x, y, x + w, y + h))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.info["exif"] = exif.tobytes()
    stored.getexif()[0x0112] = orientation
    assert ImageOps.exif_transpose(stored).getbbox() == box
    assert file.notes == (f"{folder / 'data.yaml'}: images that are turned by EXIF, and their labels with them: 1",)


def test_round_trip_of_a_real_set(real: tuple[dict[str, Any], Path], tmp_path: Path, write_text: Write) -> None:
    content, images = real
    (tmp_path / "images").mkdir()
    os.symlink(images, tmp_path / "images/val")
    for image in content["images"]:
        write_text(tmp_path / f"labels/val/{Path(image['file_name']).stem}.txt", yolo_lines(content, image))
    write_text(tmp_path / "classes.txt", "\n".join(entry["name"] for entry in content["categories"]))
    file, _ = open_folder(tmp_path, "val")
    names = {entry["id"]: entry["file_name"] for entry in file.images}
    wanted_names = {entry["id"]: entry["file_name"] for entry in content["images"]}
    classes = {entry["id"]: entry["name"] for entry in file.categories}
    wanted_classes = {entry["id"]: entry["name"] for entry in content["categories"]}

    def rows(entries: Any, images: dict[int, str], classes: dict[int, str]) -> Counter[Any]:
        # To a thousandth of a pixel: the label files hold shortest decimals, the rest is rounding of float64.
        return Counter(
            (images[e["image_id"]], classes[e["category_id"]], *(round(v, 3) + 0.0 for v in e["bbox"])) for e in entries
        )

    wanted = {entry["file_name"] for entry in content["images"]}
    found = [entry for entry in file.annotations if names[entry["image_id"]] in wanted]
    assert len(found) == len(content["annotations"]) > 500
    assert rows(found, names, classes) == rows(content["annotations"], wanted_names, wanted_classes)
