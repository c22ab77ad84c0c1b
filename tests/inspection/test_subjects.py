"""The image of an annotation file: found by its path, and never outside its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from codetr.errors import UserError
from codetr.inspection.subjects import open_image, render_scene, with_labels_of


def annotated(folder: Path, *names: str) -> Path:
    """An annotation file with an object of each class in each image; only the first image exists."""
    first = folder / "images" / names[0]
    first.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), (120, 130, 140)).save(first)
    content = {
        "images": [
            {"id": number, "file_name": name, "width": 64, "height": 48} for number, name in enumerate(names, start=1)
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "annotations": [
            {"id": 10 * number + kind, "image_id": number, "category_id": kind, "bbox": [kind, 4, 20, 30], "iscrowd": 0}
            for number in range(1, len(names) + 1)
            for kind in (3, 7)
        ],
    }
    file = folder / "instances.json"
    file.write_text(json.dumps(content))
    return file


def test_an_image_and_its_objects(tmp_path: Path) -> None:
    file = annotated(tmp_path, "a.jpg", "absent.jpg")
    sample, dataset = open_image(tmp_path / "images" / "a.jpg", file)
    assert sample.image.shape == (3, 48, 64)
    assert sample.boxes.tolist() == [[3, 4, 23, 34], [7, 4, 27, 34]]
    assert dataset.classes == ("dog", "cat") and sample.labels.tolist() == [0, 1]
    assert len(dataset) == 1


def test_the_longest_name_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = annotated(tmp_path, "deep/a.jpg", "a.jpg")
    monkeypatch.chdir(tmp_path / "images")
    sample, _ = open_image(Path("deep/a.jpg"), file)
    assert sample.info.image_id == 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("images/none.jpg", "there is no such image"),
        ("images/b.jpg", "no image of this file is .*b.jpg; did you mean 'a.jpg'"),
    ],
)
def test_what_is_not_there(tmp_path: Path, image: str, message: str) -> None:
    file = annotated(tmp_path, "a.jpg")
    Image.new("RGB", (64, 48)).save(tmp_path / "images" / "b.jpg")
    with pytest.raises(UserError, match=message):
        open_image(tmp_path / image, file)


def test_a_name_that_leaves_the_folder(tmp_path: Path) -> None:
    file = annotated(tmp_path, "a.jpg")
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = "images/../images/a.jpg"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="leads out of"):
        open_image(tmp_path / "images" / ".." / "images" / "a.jpg", file)


def test_a_link_that_leaves_the_folder(tmp_path: Path) -> None:
    file = annotated(tmp_path, "a.jpg")
    (tmp_path / "images" / "a.jpg").rename(tmp_path / "secret.jpg")
    (tmp_path / "images" / "a.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(UserError, match="leads out of"):
        open_image(tmp_path / "images" / "a.jpg", file)


def test_labels_of_a_detector(tmp_path: Path) -> None:
    sample, dataset = open_image(tmp_path / "images" / "a.jpg", annotated(tmp_path, "a.jpg"))
    assert with_labels_of(sample, dataset, ("cat", "cow", "dog"), source="x").labels.tolist() == [2, 0]
    with pytest.raises(UserError, match="x: it does not know 'dog', which the image has"):
        with_labels_of(sample, dataset, ("cat",), source="x")


def test_a_rendered_scene() -> None:
    scene = render_scene(0, num_classes=3)
    assert scene.image.shape == (3, 320, 320) and len(scene.boxes) == len(scene.labels) > 0
    assert (scene.boxes[:, 2:] > scene.boxes[:, :2]).all() and scene.labels.max() < 3
