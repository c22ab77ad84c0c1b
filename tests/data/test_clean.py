from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from codetr.data.check import check_folder
from codetr.data.clean import cleaned, write_clean
from codetr.data.coco import open_split
from codetr.data.config import DataConfig
from codetr.errors import UserError


@pytest.fixture
def dirty(write_coco, entries) -> Path:
    """A data folder in which nearly everything is wrong."""
    image, annotation = entries
    images = [
        image(1, "a.jpg"),
        image(2, "b.jpg"),
        image(3, "cut.jpg"),
        image(4, "size.jpg", 40, 30),
        image(5, "c.jpg"),
    ]
    boxes = [
        annotation(1, 1, 3, [1, 1, 5, 5]),
        annotation(2, 1, 3, [1, 1, 5, 5]),  # given twice
        annotation(3, 1, 7, [-2, -3, 12, 13]),  # cut to 10 x 10
        annotation(3, 2, 7, [4, 4, 4, 4]),  # id used twice
        annotation(4, 2, 99, [4, 4, 4, 4]),  # unknown category
        annotation(5, 77, 3, [4, 4, 4, 4]),  # unknown image
        annotation(6, 3, 3, [4, 4, 4, 4]),  # of a truncated image
        annotation(7, 4, 3, [4, 4, 20, 4]),  # cut to 16 by the size of the file
        annotation(8, 2, 9, [4, 4, 5, 4]),  # category cat under another id
        annotation(9, 11, 3, [2, 2, 4, 4]),  # of the second entry of a.jpg
        annotation(10, 1, 7, [5, 5, 0, 5]),  # without area
        {"id": 11, "image_id": 1, "category_id": 3, "bbox": "none"},
        {"id": 12, "image_id": 2, "category_id": 3, "bbox": [1, 1, 2, 3], "keypoints": [1]},  # no area, but another key
        annotation(13, 2, 7, [60, 60, 3, 3]),  # outside
        annotation(14, 1, 7, [-2, 0, 12, 10], segmentation=[[0, 0, 10, 0, 10, 10]], iscrowd=1),
    ]
    categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 9, "name": "cat"}]
    root = write_coco(images, boxes, categories=categories)
    folder = root / "images"
    content = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    Image.new("RGB", (20, 20)).save(folder / "size.jpg")
    more = [image(11, "a.jpg"), image(12, "gone.jpg"), image(13, "../annotations/x.jpg"), image(1, "c.jpg")]
    write_coco([*images, *more], boxes, categories=categories, pictures=False)
    write_coco([image(21, "v.jpg")], [annotation(1, 21, 3, [1, 1, 5, 5])], split="val", categories=categories[:2])
    return root


def _listing(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _content(root: Path, split: str = "train") -> dict[str, Any]:
    return json.loads((root / f"annotations/instances_{split}.json").read_text())


def test_the_copy_has_no_errors_and_the_original_is_untouched(dirty: Path, tmp_path: Path) -> None:
    before = _listing(dirty)
    out = tmp_path / "out"
    write_clean(check_folder(dirty), dirty, out)
    assert _listing(dirty) == before
    assert [
        finding for report in check_folder(out) for finding in report.findings if finding.kind.level == "error"
    ] == []
    for split in ("train", "val"):
        dataset = open_split(DataConfig(dir=out), split)  # type: ignore[arg-type]
        assert [sample.image.shape[0] for sample in map(dataset.__getitem__, range(len(dataset)))] == [3] * len(dataset)


def test_what_is_mended_and_what_is_dropped(dirty: Path, tmp_path: Path) -> None:
    write_clean(check_folder(dirty), dirty, tmp_path / "out")
    content = _content(tmp_path / "out")
    assert [(entry["id"], entry["file_name"]) for entry in content["images"]] == [
        (1, "a.jpg"),
        (2, "b.jpg"),
        (4, "size.jpg"),
        (5, "c.jpg"),
    ]
    assert (content["images"][2]["width"], content["images"][2]["height"]) == (20, 20)
    assert content["categories"] == [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    rows = [
        (e["id"], e["image_id"], e["category_id"], e["bbox"], e["area"], e["iscrowd"]) for e in content["annotations"]
    ]
    assert rows == [
        (1, 1, 3, [1, 1, 5, 5], 25, 0),
        (3, 1, 7, [0, 0, 10, 10], 100, 0),
        (15, 2, 7, [4, 4, 4, 4], 16, 0),
        (7, 4, 3, [4, 4, 16, 4], 64, 0),
        (8, 2, 3, [4, 4, 5, 4], 20, 0),
        (9, 1, 3, [2, 2, 4, 4], 16, 0),
        (12, 2, 3, [1, 1, 2, 3], 6, 0),
        (14, 1, 7, [0, 0, 10, 10], 120, 1),  # the area of a mask is not that of its box, and stays
    ]
    assert content["annotations"][6]["keypoints"] == [1]
    assert sorted(path.name for path in (tmp_path / "out/images").iterdir()) == [
        "a.jpg",
        "b.jpg",
        "c.jpg",
        "size.jpg",
        "v.jpg",
    ]


def test_images_are_links_or_copies(dirty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = check_folder(dirty)
    write_clean(reports, dirty, tmp_path / "linked")
    assert os.path.samefile(tmp_path / "linked/images/a.jpg", dirty / "images/a.jpg")

    def refuse(source: str, target: Path) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    write_clean(reports, dirty, tmp_path / "copied")
    assert not os.path.samefile(tmp_path / "copied/images/a.jpg", dirty / "images/a.jpg")
    assert _listing(tmp_path / "copied") == _listing(tmp_path / "linked")


def test_the_layout_of_coco_is_kept(dirty: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        os.rename(dirty / f"annotations/instances_{split}.json", dirty / f"annotations/instances_{split}2017.json")
    os.rename(dirty / "images", dirty / "train2017")
    os.mkdir(dirty / "val2017")
    os.rename(dirty / "train2017/v.jpg", dirty / "val2017/v.jpg")
    write_clean(check_folder(dirty), dirty, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out/val2017").iterdir()] == ["v.jpg"]
    assert len(open_split(DataConfig(dir=tmp_path / "out"), "train")) == 4


def test_extra_keys_are_kept(write_coco, entries) -> None:
    image, _ = entries
    root = write_coco([image(1, "a.jpg")], [])
    content = _content(root)
    (root / "annotations/instances_train.json").write_text(json.dumps({"info": {"year": 2017}, **content}))
    (report,) = check_folder(root)
    assert cleaned(report) == {"info": {"year": 2017}, **content}


@pytest.mark.parametrize("where", ["set", "set/clean", "used"])
def test_places_that_are_refused(dirty: Path, tmp_path: Path, where: str) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used/x").touch()
    before = _listing(tmp_path)
    with pytest.raises(UserError, match="name a new one"):
        write_clean(check_folder(dirty), dirty, tmp_path / where)
    assert _listing(tmp_path) == before


def test_a_place_that_cannot_be_written(dirty: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_clean(check_folder(dirty), dirty, tmp_path / "file" / "out")


def test_nothing_left_is_an_error(write_coco, entries, tmp_path: Path) -> None:
    image, _ = entries
    root = write_coco([image(1, "a.jpg")], [], pictures=False)
    with pytest.raises(UserError, match=r"no image of .* can be used"):
        write_clean(check_folder(root), root, tmp_path / "out")


def test_annotations_of_a_turned_image_are_turned(write_coco, entries, tmp_path: Path) -> None:
    """Stated 40 x 30 as shown; stored 30 x 40, to be turned by a quarter clockwise."""
    image, annotation = entries
    boxes = [annotation(1, 1, 3, [2, 3, 10, 5], segmentation=[[2, 3, 12, 3, 12, 8]])]
    root = write_coco([image(1, "a.jpg")], boxes)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 40)).save(root / "images/a.jpg", exif=exif)
    write_clean(check_folder(root), root, tmp_path / "clean")
    content = json.loads((tmp_path / "clean/annotations/instances_train.json").read_text())
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (30, 40)
    assert content["annotations"][0]["bbox"] == [3, 28, 5, 10]
    assert content["annotations"][0]["segmentation"] == [[3, 38, 3, 28, 8, 28]]


@pytest.mark.parametrize(
    ("written", "boxes"),
    [
        ([[i, i, i + 20, i + 9] for i in range(10, 18)], [[i, i, 20, 9] for i in range(10, 18)]),
        ([[0.25, 0.5, 0.5, 0.2]], [[10, 15, 20, 6]]),
        ([[0.25, 0.5, 0.5, 0.2], [0.9, 0.5, 0.2, 0.2]], [[0, 12, 20, 6], [32, 12, 8, 6]]),
    ],
    ids=["corners", "shares", "shares from the centre"],
)
def test_boxes_of_another_form_become_pixels(
    write_coco, entries, tmp_path: Path, written: list[list[float]], boxes: list[list[float]]
) -> None:
    image, annotation = entries
    rows = [{**annotation(index, 1, 3, [0, 0, 1, 1]), "bbox": box} for index, box in enumerate(written, start=1)]
    for row in rows:
        row["area"] = row["bbox"][2] * row["bbox"][3] if len(written) < 3 else None
    root = write_coco([image(1, "a.png")], rows)
    write_clean(check_folder(root), root, tmp_path / "clean")
    content = json.loads((tmp_path / "clean/annotations/instances_train.json").read_text())
    found = [entry["bbox"] for entry in content["annotations"]]
    np.testing.assert_allclose(found, boxes, atol=1e-9)
    assert [e["area"] for e in content["annotations"]] == pytest.approx([box[2] * box[3] for box in boxes])
    (again,) = check_folder(tmp_path / "clean")
    assert again.count("error") == 0


def test_sound_polygons_are_kept_and_broken_segmentations_taken_out(write_coco, entries, tmp_path: Path) -> None:
    image, annotation = entries
    sound = [1, 1, 9, 1, 9, 9]
    boxes = [
        annotation(1, 1, 3, [1, 1, 8, 8], segmentation=[sound, [1, 2, 3]]),
        annotation(2, 1, 3, [2, 1, 8, 8], segmentation={"size": [30, 40], "counts": [7]}),
    ]
    root = write_coco([image(1, "a.png")], boxes)
    write_clean(check_folder(root), root, tmp_path / "clean")
    content = json.loads((tmp_path / "clean/annotations/instances_train.json").read_text())
    assert [entry.get("segmentation", "none") for entry in content["annotations"]] == [[sound], "none"]
