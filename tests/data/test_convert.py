from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from codetr.data.coco import CocoDataset
from codetr.data.convert import convert
from codetr.data.layout import open_folder, recognise
from codetr.errors import UserError


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    """Three splits, each with an image of the same name and another size."""
    root = tmp_path / "yolo"
    for number, split in enumerate(("train", "valid", "test"), start=1):
        (root / split / "images/in").mkdir(parents=True)
        (root / split / "labels/in").mkdir(parents=True)
        Image.new("RGB", (40 * number, 30)).save(root / split / "images/in/a b.png")
        (root / split / "labels/in/a b.txt").write_text("1 .5 .5 .5 .5\n0 .5 .5 .1 .1\n")
    (root / "data.yaml").write_text("train: train/images\nval: valid/images\ntest: test/images\nnames: [cat, dog]\n")
    return root


def test_every_split_becomes_coco(tmp_path: Path, yolo: Path) -> None:
    done: list[tuple[int, int]] = []
    written = convert(yolo, tmp_path / "out", progress=lambda *numbers: done.append(numbers))
    counts = [(w.split, w.images, w.annotations, w.categories, w.copied) for w in written]
    assert counts == [("train", 1, 2, 2, 0), ("val", 1, 2, 2, 0), ("test", 1, 2, 2, 0)]
    assert done == [(1, 1)] * 3
    layout = recognise(tmp_path / "out")
    assert layout is not None and layout.name == "COCO"
    for split, width in (("train", 40), ("val", 80)):
        before, after = (CocoDataset(*open_folder(root, split)) for root in (yolo, tmp_path / "out"))  # type: ignore[arg-type]
        assert after.classes == before.classes == ("cat", "dog")
        assert after[0].image.shape == before[0].image.shape == (3, 30, width)
        assert after[0].boxes.equal(before[0].boxes)
        assert after[0].labels.tolist() == before[0].labels.tolist() == [1, 0]
    assert (tmp_path / "out/annotations/instances_test.json").is_file()


@pytest.mark.parametrize("copy", [False, True])
def test_links_and_copies(tmp_path: Path, yolo: Path, copy: bool) -> None:
    written = convert(yolo, tmp_path / "out", copy=copy)
    source, target = yolo / "train/images/in/a b.png", tmp_path / "out/images/train/in/a b.png"
    assert os.path.samefile(source, target) is not copy
    assert source.read_bytes() == target.read_bytes()
    assert written[0].copied == int(copy)


def test_another_file_system_gets_copies(tmp_path: Path, yolo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert [split.copied for split in convert(yolo, tmp_path / "out")] == [1, 1, 1]


def test_what_is_lvis_own_is_kept(tmp_path: Path) -> None:
    root = tmp_path / "lvis"
    (root / "train2017").mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(root / "train2017/000000000009.jpg")
    url = "http://images.cocodataset.org/train2017/000000000009.jpg"
    image = {
        "id": 9,
        "coco_url": url,
        "width": 40,
        "height": 30,
        "neg_category_ids": [1],
        "not_exhaustive_category_ids": [2],
    }
    categories = [{"id": 1, "name": "acorn", "frequency": "r", "synset": "acorn.n.01"}, {"id": 2, "name": "cat"}]
    content: dict[str, Any] = {"info": {"year": 2020}, "images": [image], "annotations": [], "categories": categories}
    (root / "lvis_v1_train.json").write_text(json.dumps(content))
    convert(root, tmp_path / "out")
    file, images = open_folder(tmp_path / "out", "train")
    assert file.dialect == "lvis"
    assert file.images == [{**image, "file_name": "train2017/000000000009.jpg"}]
    assert (file.categories, file.extra) == (categories, {"info": {"year": 2020}})
    assert images == tmp_path / "out/images/train"
    assert len(CocoDataset(file, images)) == 1


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path, yolo: Path) -> None:
    (tmp_path / "out").mkdir()
    convert(yolo, tmp_path / "out")  # an empty one will do
    with pytest.raises(UserError, match=r"-o .*out: it exists already and is not empty"):
        convert(yolo, tmp_path / "out")
    with pytest.raises(UserError, match="lies in"):
        convert(yolo, yolo / "out")
    with pytest.raises(UserError, match="lies in"):
        convert(yolo, yolo)
    assert not (yolo / "out").exists()


def test_a_missing_image_is_named_and_no_annotations_are_left(tmp_path: Path, write_coco: Callable[..., Path]) -> None:
    root = write_coco([{"id": 3, "file_name": "a.png", "width": 4, "height": 3}], [])
    (root / "images/a.png").unlink()
    with pytest.raises(UserError, match=r"image id 3: there is no file .*a\.png"):
        convert(root, tmp_path / "out")
    assert not (tmp_path / "out/annotations").exists()


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd"])
def test_a_name_that_leaves_the_folder(tmp_path: Path, write_coco: Callable[..., Path], name: str) -> None:
    root = write_coco([{"id": 3, "file_name": name, "width": 4, "height": 3}], [], pictures=False)
    with pytest.raises(UserError, match="leads out of"):
        convert(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_are_followed_to_their_files(tmp_path: Path, yolo: Path) -> None:
    shutil.move(yolo / "train/images", tmp_path / "disk")
    os.symlink(tmp_path / "disk", yolo / "train/images")
    convert(yolo, tmp_path / "out")
    target = tmp_path / "out/images/train/in/a b.png"
    assert not target.is_symlink()
    assert os.path.samefile(target, tmp_path / "disk/in/a b.png")


def test_a_folder_of_no_layout(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(UserError, match="Looked for\n"):
        convert(tmp_path / "set", tmp_path / "out")


def test_shards_are_not_unpacked(tmp_path: Path, write_coco: Callable[..., Path]) -> None:
    root = write_coco([{"id": 3, "file_name": "a.png", "width": 4, "height": 3}], [])
    (root / "shards/train").mkdir(parents=True)
    (root / "shards/train/index.npz").touch()
    with pytest.raises(UserError, match="convert the folder that they were packed from"):
        convert(root, tmp_path / "out")
