from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from PIL import Image

from codetr.data.advice import advice
from codetr.data.annotations import ImageFolder, read_annotations
from codetr.data.findings import Kind
from codetr.data.leaks import leaks
from codetr.data.samples import sample_sheet
from codetr.data.statistics import (
    ASPECT_BINS,
    COUNT_BINS,
    QUANTILES,
    SplitStatistics,
    histogram,
    quantile_rows,
    split_statistics,
)
from codetr.errors import UserError


@pytest.fixture
def two_images(write_coco, entries) -> SplitStatistics:
    image, annotation = entries
    boxes = [
        annotation(1, 1, 3, [0, 0, 20, 10]),
        annotation(2, 1, 3, [30, 20, 20, 20]),  # 10 x 10 of it in the image
        annotation(3, 1, 7, [5, 5, 8, 16], area=2000),
        annotation(4, 1, 7, [0, 0, 30, 30], iscrowd=1),
        annotation(5, 1, 3, [50, 5, 5, 5]),  # outside
        annotation(6, 9, 3, [0, 0, 5, 5]),  # of no image
    ]
    root = write_coco([image(1, "a.png"), image(2, "b.png")], boxes)
    file = read_annotations(root / "annotations/instances_train.json")
    return split_statistics(file, ImageFolder(root / "images"), split="train")


def test_figures(two_images: SplitStatistics) -> None:
    found = two_images
    assert (found.images, found.objects, found.crowds, found.skipped) == (2, 3, 1, 2)
    assert found.boxes.tolist() == [[20, 10], [10, 10], [8, 16]]
    assert found.per_class() == {7: (1, 1), 3: (2, 1)}
    assert found.counts().tolist() == [3, 0]
    assert found.shares() == pytest.approx((2 / 3, 1 / 3, 0))  # the area that is stated decides: 2000 is medium
    assert found.aspects().tolist() == [2, 1, 0.5]
    np.testing.assert_allclose(found.relative(), np.sqrt(np.array([200, 100, 128]) / 1200))
    record = found.record()
    assert record["classes"][0] == {"id": 7, "name": "dog", "objects": 1, "images": 1}
    assert record["images_without_objects"] == 1
    assert record["objects_per_image"] == {"0": 1, "1": 0, "2": 0, "3 to 4": 1}
    assert record["quantiles"]["box width, px"] == [8, 8.04, 9, 10, 15, 19.8, 20]
    assert len(QUANTILES) == 7


def test_histogram() -> None:
    assert histogram([0, 3, 4, 300], COUNT_BINS)[0] == ("0", 1)
    assert histogram([300], COUNT_BINS) == [("257 or more", 1)]
    assert [name for name, _ in histogram([0.1, 9], ASPECT_BINS)] == [
        "below 1/4", "1/4 to 1/2", "1/2 to 4/5", "4/5 to 5/4", "5/4 to 2", "2 to 4", "4 or more",
    ]  # fmt: skip
    assert histogram([], COUNT_BINS) == []


def test_sizes_are_those_of_the_files_or_as_stated(write_coco, entries) -> None:
    image, annotation = entries
    root = write_coco([image(1, "a.png")], [annotation(1, 1, 3, [0, 0, 40, 30])])
    Image.new("RGB", (80, 60)).save(root / "images/a.png")
    file = read_annotations(root / "annotations/instances_train.json")
    looked = split_statistics(file, ImageFolder(root / "images"), split="train")
    assert looked.sizes.tolist() == [[60, 80]]
    believed = split_statistics(file, None, split="train")
    assert believed.sizes.tolist() == [[30, 40]]
    assert quantile_rows([looked, believed])["image width, px"][-1] == 80


def test_images_that_two_splits_share(write_coco, entries) -> None:
    image, annotation = entries
    boxes = [annotation(1, 1, 3, [0, 0, 9, 9])]
    root = write_coco([image(1, "a.png", 64, 48)], boxes)
    write_coco([image(5, "b.png", 64, 48), image(6, "a.png", 64, 48)], [], split="val", pictures=False)
    with Image.open(root / "images/a.png") as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "images/b.png")
    train, val = (
        split_statistics(
            read_annotations(root / f"annotations/instances_{s}.json"), ImageFolder(root / "images"), split=s
        )
        for s in ("train", "val")
    )
    found = leaks(train.file, train.facts, val.file, val.facts, split="train")
    assert [(f.kind, f.image_id, f.detail) for f in found] == [
        (Kind.LEAK, 5, "looks like a.png (image id 1 of train, mirrored)"),
        (Kind.IN_BOTH_SPLITS, 6, "the same as image id 1 of train"),
    ]
    assert any(line.startswith("100 % of the images of val are") for line in advice([train, val], [found]))
    assert not any("of the images of val" in line for line in advice([train, val], [[]]))


def statistics(counts: list[int], *, size: tuple[int, int] = (800, 1200), **changes: Any) -> SplitStatistics:
    """One class for each number; its objects lie in as many images, 100 x 100 each."""
    labels = np.repeat(np.arange(len(counts)), counts)
    owners = np.concatenate([np.arange(count) for count in counts])
    images = max(2000, owners.max(initial=0) + 1)
    base = SplitStatistics(
        split="train",
        file=changes.pop("file"),
        facts=changes.pop("facts"),
        classes={index: f"c{index}" for index in range(len(counts))},
        frequency={},
        boxes=np.full((len(labels), 2), 100.0),
        areas=np.full(len(labels), 1e4),
        labels=labels,
        owners=owners,
        sizes=np.tile(np.array(size), (images, 1)),
        crowds=0,
        skipped=0,
    )
    return dataclasses.replace(base, **changes)


@pytest.fixture
def make(two_images: SplitStatistics):
    def with_file(counts: list[int], **changes: Any) -> SplitStatistics:
        return statistics(counts, file=two_images.file, facts=two_images.facts, **changes)

    return with_file


def test_nothing_to_advise(make) -> None:
    assert advice([make([500, 400])]) == []


def test_advice_names_the_setting(make) -> None:
    (line,) = advice([make([2000, 1])])
    assert line.startswith("1 classes are in fewer than 0.1 % of the images of train: data.repeat={}")
    (line,) = advice([make([2000, 60])])
    assert "33 times" in line and "data.repeat.threshold=0.06" in line
    assert advice([make([2000, 300])]) == []
    (line,) = advice([make([250], owners=np.maximum(0, np.arange(250) - 149))])
    assert line.startswith("1 images have more than 100 objects, the most 150: base.num_queries")
    assert "eval.max_detections" in line
    (line,) = advice([make([100], boxes=np.full((100, 2), 7.9))])
    assert line.startswith("100 % of the boxes have sides below 8 px") and "data.resize.size" in line
    assert advice([make([100], boxes=np.full((100, 2), 8.1))]) == []
    (line,) = advice([make([100], size=(200, 300))])
    assert "enlarged 4.0 times" in line and "data.resize.size=200" in line
    (line,) = advice([make([100], skipped=3)])
    assert line.startswith("3 annotations cannot be used")


def test_classes_that_a_split_lacks(make) -> None:
    lines = advice([make([100, 0]), dataclasses.replace(make([0, 100]), split="val")])
    assert lines == [
        "classes of val that train has no object of: 'c1'",
        "classes without an object in val, so without a figure there: 'c0'",
    ]


def test_samples_are_drawn_by_the_seed_and_bad_images_passed_over(two_images: SplitStatistics, tmp_path) -> None:
    folder = tmp_path / "set/images"
    first = sample_sheet([(two_images, folder)], samples=2, seed=3)
    assert first.tobytes() == sample_sheet([(two_images, folder)], samples=2, seed=3).tobytes()
    (folder / "b.png").write_bytes(b"")
    alone = sample_sheet([(two_images, folder)], samples=2, seed=3)
    assert alone.width < first.width or alone.height < first.height
    (folder / "a.png").unlink()
    with pytest.raises(UserError, match="no image can be drawn; codetr data check says why"):
        sample_sheet([(two_images, folder)], samples=2, seed=3)
