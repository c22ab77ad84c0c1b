from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from codetr.data.annotations import ImageFolder, is_cut, is_empty
from codetr.data.coco import CocoDataset, open_split, require_same_classes
from codetr.data.config import DataConfig
from codetr.data.images import BadImage
from codetr.errors import UserError


def _open(root: Path, **options: Any) -> CocoDataset:
    return CocoDataset(root / "annotations/instances_train.json", root / "images", **options)


def _error(root: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        _open(root, **options)
    return str(caught.value)


def test_labels_are_contiguous_in_ascending_category_id(write_coco, entries) -> None:
    image, annotation = entries
    images = [image(11, "a.jpg"), image(5, "b.jpg")]
    boxes = [annotation(1, 5, 7, [1, 2, 10, 20]), annotation(2, 11, 3, [0, 0, 4, 5]), annotation(3, 5, 3, [5, 5, 5, 5])]
    dataset = _open(write_coco(images, boxes))
    assert dataset.category_ids == (3, 7)
    assert dataset.classes == ("cat", "dog")
    assert [info.image_id for info in dataset.infos] == [11, 5]
    assert dataset.infos[0].size == (30, 40)
    assert Path(dataset.infos[0].file).name == "a.jpg"
    sample = dataset[1]
    assert sample.image.shape == (3, 30, 40) and sample.image.dtype == torch.uint8
    assert sample.boxes.tolist() == [[1, 2, 11, 22], [5, 5, 10, 10]]
    assert sample.labels.tolist() == [1, 0]
    assert sample.ignore_boxes.shape == (0, 4)
    assert sample.masks is None
    assert dataset.aspect_ratios() == [40 / 30, 40 / 30]


def test_crowds_are_ignore_boxes_and_empty_images_stay(write_coco, entries) -> None:
    image, annotation = entries
    boxes = [annotation(1, 1, 3, [1, 1, 9, 9], iscrowd=1), annotation(2, 1, 7, [2, 2, 3, 3], iscrowd=0)]
    dataset = _open(write_coco([image(1, "a.jpg"), image(2, "b.jpg")], boxes))
    assert dataset[0].boxes.tolist() == [[2, 2, 5, 5]]
    assert dataset[0].labels.tolist() == [1]
    assert dataset[0].ignore_boxes.tolist() == [[1, 1, 10, 10]]
    assert len(dataset) == 2
    assert dataset[1].boxes.shape == (0, 4) and dataset[1].boxes.dtype == torch.float32
    assert dataset[1].labels.shape == (0,) and dataset[1].labels.dtype == torch.int64


def test_boxes_are_clipped_and_empty_ones_dropped(write_coco, entries) -> None:
    image, annotation = entries
    boxes = [
        annotation(1, 1, 3, [-5, -5, 10, 10]),  # cut to 5 x 5
        annotation(2, 1, 3, [35, 20, 10, 20]),  # cut to 5 x 10
        annotation(3, 1, 3, [5, 5, 0, 10]),
        annotation(4, 1, 3, [5, 5, 10, -1]),
        annotation(5, 1, 3, [40, 5, 10, 10]),  # right of the image
        annotation(6, 1, 3, [0, 0, 40, 30.01]),  # over by rounding
    ]
    dataset = _open(write_coco([image(1, "a.jpg")], boxes))
    assert dataset[0].boxes.tolist() == [[0, 0, 5, 5], [35, 20, 40, 30], [0, 0, 40, 30]]
    assert (dataset.dropped, dataset.clipped) == (3, 2)


@pytest.mark.parametrize(
    ("box", "empty", "cut"),
    [
        ([0, 0, 40, 30], False, False),
        ([-0.02, 0, 40, 30], False, False),
        ([-0.03, 0, 40, 30], False, True),
        ([0, 29, 5, 1.5], False, True),
        ([-5, 0, 5, 5], True, True),
        ([3, 3, 0, 4], True, False),
    ],
)
def test_empty_and_cut_boxes(box: list[float], empty: bool, cut: bool) -> None:
    assert is_empty(box, (30, 40)) is empty
    assert is_cut(box, (30, 40)) is cut


def test_an_unknown_category_is_named(write_coco, entries) -> None:
    image, annotation = entries
    root = write_coco([image(1, "a.jpg")], [annotation(41, 1, 9, [1, 1, 2, 2])])
    message = _error(root)
    assert "instances_train.json: annotation id 41: category_id 9 is not among" in message
    assert "2 categories, ids 3 to 7" in message
    assert "codetr data check" in message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_id": 2}, "annotation id 41: image_id 2 is not among"),
        ({"bbox": [1, 2, 3]}, "annotation id 41: bbox must be four finite numbers"),
        ({"bbox": [1, 2, float("nan"), 4]}, "annotation id 41: bbox must be four finite numbers"),
        ({"bbox": [1, 2, True, 4]}, "annotation id 41: bbox must be four finite numbers"),
        ({"bbox": [1, 2, 10**400, 4]}, "annotation id 41: bbox must be four finite numbers"),
        ({"bbox": None}, "annotation id 41: bbox must be four finite numbers"),
        ({"category_id": "3"}, "annotation id 41: category_id must be an integer, found '3'"),
        ({"id": 40}, "annotation id 40: this id is used twice"),
    ],
)
def test_annotations_that_cannot_be_used(write_coco, entries, changes: dict[str, Any], reason: str) -> None:
    image, annotation = entries
    first = annotation(40, 1, 3, [1, 1, 5, 5])
    assert reason in _error(write_coco([image(1, "a.jpg")], [first, {**annotation(41, 1, 3, [1, 1, 2, 2]), **changes}]))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id": 1}, "image id 1: this id is used twice"),
        ({"id": None}, "image id None: id must be an integer"),
        ({"file_name": ""}, "image id 2: file_name must be a text"),
        ({"width": 0}, "image id 2: its width and height must be positive integers"),
        ({"height": "30"}, "image id 2: its width and height must be positive integers"),
    ],
)
def test_images_that_cannot_be_used(write_coco, entries, changes: dict[str, Any], reason: str) -> None:
    image, _ = entries
    root = write_coco([image(1, "a.jpg"), image(2, "b.jpg")], [])
    assert reason in _error(write_coco([image(1, "a.jpg"), {**image(2, "b.jpg"), **changes}], [], pictures=False))
    assert root.is_dir()


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/etc/hosts", "sub/../../secret.jpg", "..\\secret.jpg", "a/../b.jpg"]
)
def test_file_names_stay_inside_the_folder(write_coco, entries, name: str) -> None:
    image, _ = entries
    root = write_coco([image(1, "a.jpg")], [])
    Image.new("RGB", (40, 30)).save(root / "secret.jpg")
    message = _error(write_coco([image(1, "a.jpg"), image(2, name)], [], pictures=False))
    assert f"image id 2: file_name {name!r} leads out of the image folder {root / 'images'}" in message
    assert "instances_train.json" in message


def test_links_may_not_leave_the_folder(write_coco, entries) -> None:
    image, _ = entries
    root = write_coco([image(1, "a.jpg")], [])
    outside = root.parent / "elsewhere"
    outside.mkdir()
    Image.new("RGB", (40, 30)).save(outside / "secret.jpg")
    folder = root / "images"
    os.symlink(outside / "secret.jpg", folder / "link.jpg")
    os.symlink(outside, folder / "sub")
    os.symlink(folder / "a.jpg", folder / "fine.jpg")
    assert "image id 2" in _error(write_coco([image(2, "link.jpg")], [], pictures=False))
    assert "image id 3" in _error(write_coco([image(3, "sub/secret.jpg")], [], pictures=False))
    assert len(_open(write_coco([image(4, "fine.jpg")], [], pictures=False))) == 1


def test_the_folder_itself_may_be_a_link(write_coco, entries, tmp_path: Path) -> None:
    image, _ = entries
    root = write_coco([image(1, "a.jpg")], [])
    os.symlink(root / "images", tmp_path / "linked")
    folder = ImageFolder(tmp_path / "linked")
    assert not folder.leaves("a.jpg")
    assert folder.find("a.jpg") == tmp_path / "linked/a.jpg"
    assert CocoDataset(root / "annotations/instances_train.json", tmp_path / "linked")[0].image.shape == (3, 30, 40)


def test_missing_images_are_found_at_opening(write_coco, entries) -> None:
    image, _ = entries
    root = write_coco([image(0, "here.jpg")], [])
    (root / "images/folder.jpg").mkdir()
    missing = [image(1, "x.jpg"), image(2, "folder.jpg"), image(3, "z.jpg"), image(4, "y" * 300), image(5, "v.jpg")]
    message = _error(write_coco([image(0, "here.jpg"), *missing], [], pictures=False))
    assert "5 of 6 images are not in" in message
    assert "x.jpg (image id 1), folder.jpg (image id 2), z.jpg (image id 3) and 2 more" in message


def test_categories_that_cannot_be_used(write_coco, entries) -> None:
    image, _ = entries
    assert "'categories' is empty" in _error(write_coco([image(1, "a.jpg")], [], categories=[]))
    twice = [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]
    assert "category id 1: this id is used twice" in _error(write_coco([image(1, "a.jpg")], [], categories=twice))
    nameless = [{"id": 1}]
    assert "category id 1: name must be a text" in _error(write_coco([image(1, "a.jpg")], [], categories=nameless))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"images": [],\n "annotations": [', "instances_train.json:2:18: not valid JSON"),
        ("[]", "is an object with images, annotations, categories"),
        ('{"images": [], "annotations": []}', "'categories' must be a list of objects"),
        ('{"images": [1], "annotations": [], "categories": []}', "'images' must be a list of objects"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "'images' is empty"),
    ],
)
def test_files_that_are_no_coco_files(write_coco, text: str, reason: str) -> None:
    root = write_coco([], [])
    (root / "annotations/instances_train.json").write_text(text)
    assert reason in _error(root)


def test_an_image_of_another_size_than_stated(write_coco, entries) -> None:
    image, _ = entries
    root = write_coco([image(1, "a.jpg")], [])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 40)).save(root / "images/a.jpg", exif=exif)
    with pytest.raises(BadImage, match=r"a\.jpg: the file is 30 x 40 pixels, but .* says 40 x 30 .*EXIF"):
        _open(root)[0]


def test_masks_from_polygons_and_run_lengths(write_coco, entries) -> None:
    image, annotation = entries
    polygon = [[2.0, 2.0, 10.0, 2.0, 10.0, 8.0, 2.0, 8.0]]
    counts = [30 * 4 + 5, 6, 30 * 40 - 30 * 4 - 11]  # column-major: 6 pixels of column 4, from row 5
    boxes = [
        annotation(1, 1, 3, [2, 2, 8, 6], segmentation=polygon),
        annotation(2, 1, 3, [4, 5, 1, 6], segmentation={"size": [30, 40], "counts": counts}),
        annotation(3, 1, 3, [0, 0, 9, 9], segmentation={"size": [30, 40], "counts": [0, 1200]}, iscrowd=1),
    ]
    sample = _open(write_coco([image(1, "a.jpg"), image(2, "b.jpg")], boxes), masks=True)[0]
    assert sample.masks is not None and sample.masks.shape == (2, 30, 40)
    expected = torch.zeros(2, 30, 40, dtype=torch.bool)
    expected[0, 2:8, 2:10] = True
    expected[1, 5:11, 4] = True
    assert torch.equal(sample.masks, expected)
    empty = _open(write_coco([image(1, "a.jpg")], []), masks=True)[0]
    assert empty.masks is not None and empty.masks.shape == (0, 30, 40)


def test_masks_that_cannot_be_decoded(write_coco, entries) -> None:
    image, annotation = entries
    without = write_coco([image(1, "a.jpg")], [annotation(9, 1, 3, [1, 1, 5, 5])])
    assert "annotation id 9: it has no segmentation" in _error(without, masks=True)
    other = {"size": [3, 4], "counts": [0, 12]}
    root = write_coco([image(1, "a.jpg")], [annotation(9, 1, 3, [1, 1, 5, 5], segmentation=other)])
    with pytest.raises(UserError, match="image id 1"):
        _open(root, masks=True)[0]


def test_open_split_and_the_classes_of_two_splits(write_coco, entries) -> None:
    image, _ = entries
    root = write_coco([image(1, "a.jpg")], [])
    write_coco([image(1, "b.jpg")], [], split="val", categories=[{"id": 3, "name": "cat"}, {"id": 7, "name": "cow"}])
    train, val = open_split(DataConfig(dir=root), "train"), open_split(DataConfig(dir=root), "val")
    require_same_classes(train, train)
    with pytest.raises(UserError, match="7 'cow', 7 'dog'"):
        require_same_classes(train, val)


@pytest.mark.parametrize(("name", "images", "boxes", "classes"), [("bccd", 291, 3880, 3), ("chess", 231, 2251, 12)])
def test_real_sets_agree_with_pycocotools(shared: Path, name: str, images: int, boxes: int, classes: int) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    dataset = open_split(DataConfig(dir=shared / "data" / name), "train")
    assert (len(dataset), len(dataset.classes)) == (images, classes)
    oracle = coco.COCO()
    oracle.dataset = json.loads(dataset.annotations.read_text())
    oracle.createIndex()
    total = 0
    for index in range(0, len(dataset), 20):
        sample = dataset[index]
        found = oracle.loadAnns(oracle.getAnnIds(imgIds=sample.info.image_id))
        expected = [[x, y, x + w, y + h] for x, y, w, h in (entry["bbox"] for entry in found)]
        # float32 of coordinates below 1000
        torch.testing.assert_close(sample.boxes, torch.tensor(expected).reshape(-1, 4), rtol=0, atol=1e-4)
        assert [dataset.category_ids[label] for label in sample.labels] == [entry["category_id"] for entry in found]
        total += len(found)
    assert 0 < total < boxes


def test_real_crowds(shared: Path) -> None:
    folder = shared / "data/coco_cc"
    dataset = CocoDataset(folder / "instances_cc_by.json", folder / "images", masks=True)
    samples = [dataset[index] for index in range(len(dataset))]
    assert len(dataset.classes) == 80
    assert sum(len(sample.boxes) for sample in samples) == 637
    assert sum(len(sample.ignore_boxes) for sample in samples) == 10
    assert all(
        sample.masks is not None and sample.masks.shape == (len(sample.boxes), *sample.info.size) for sample in samples
    )


def test_boxes_and_masks_follow_an_image_that_is_decoded_smaller(write_coco, entries) -> None:
    image, annotation = entries
    lengths = {"size": [31, 40], "counts": [0, 31 * 20, 31 * 20]}  # the left half
    boxes = [
        annotation(1, 1, 3, [10, 4, 20, 8], segmentation=[[10, 4, 30, 4, 30, 12, 10, 12]]),
        annotation(2, 1, 3, [0, 0, 20, 31], segmentation=lengths),
        annotation(3, 1, 3, [4, 4, 8, 8], iscrowd=1),
    ]
    root = write_coco([image(1, "a.jpg", 40, 31)], boxes)
    file, folder = root / "annotations/instances_train.json", root / "images"
    sample = CocoDataset(file, folder, masks=True, max_pixels=400)[0]
    assert sample.image.shape == (3, 16, 20) and sample.info.size == (31, 40)
    down = 16 / 31
    expected = torch.tensor([[5, 4 * down, 15, 12 * down], [0, 0, 10, 16]])
    assert torch.allclose(sample.boxes, expected)
    assert torch.allclose(sample.ignore_boxes, torch.tensor([[2, 4 * down, 6, 12 * down]]))
    assert sample.masks is not None and sample.masks.shape == (2, 16, 20)
    assert sample.masks[0].sum() == 10 * 4 and sample.masks[0, 2:6, 5:15].all()
    assert sample.masks[1, :, :10].all() and not sample.masks[1, :, 10:].any()
