"""The long-tailed synthetic set: many classes, LVIS's files and folders, federated annotations."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from codetr.data.coco import open_split
from codetr.data.config import DataConfig
from codetr.data.long_tail_plan import classes_of, plan
from codetr.data.lvis_file import lvis_file
from codetr.data.sampling_config import LongTail
from codetr.data.scene_looks import _COLOURS, _SECOND, looks
from codetr.data.scene_shapes import Pose, rasterise
from codetr.data.synthetic import generate
from codetr.errors import UserError

TAIL = LongTail(classes=30, exponent=1.0, least=2, val_least=3, rare=4, common=8)
IMAGE_KEYS = {"id", "width", "height", "coco_url", "not_exhaustive_category_ids", "neg_category_ids"}
CATEGORY_KEYS = {"id", "name", "synset", "synonyms", "def", "frequency", "image_count", "instance_count"}


def read(directory: Path, split: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "annotations" / f"lvis_v1_{split}.json").read_text())
    return content


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tail") / "data"
    return generate(folder, train=40, val=20, size=64, objects=(1, 6), long_tail=TAIL, workers=1)


# Classes


def test_lvis_has_as_many_classes_as_there_are_looks_for() -> None:
    names = [look.name for look in looks(1600)]
    assert len(set(names)) == 1600
    assert [look.name for look in looks(1203)] == names[:1203]
    assert names[:2] == ["red_disc", "red_square"] and names[10] == "blue_disc"
    assert {(look.pattern, look.mark) for look in looks(100)} == {("", "")}
    (last,) = [look for look in looks(1600) if look.name == "violet_dotted_banded_gear"]
    assert last.definition == "a violet gear with dots and a band"


def test_no_two_classes_are_painted_alike() -> None:
    """Of one silhouette, all 160 ways to paint it, each with the same random numbers: in a patch of 28 pixels, two
    differ by more than a tenth of the range of a colour somewhere in a twentieth of the surface at least."""
    pose = Pose(0.0, 0.0, 14.0)
    painted = []
    for look in looks(1600)[::10]:
        patch = rasterise(look.shape, pose)
        inside = patch.distance < 0
        painted.append(look.paint(np.random.default_rng(3), patch, pose)[inside])
    for i, first in enumerate(painted):
        apart = np.abs(np.stack(painted[i + 1 :]) - first).max(-1) if i + 1 < len(painted) else np.ones((1, 1))
        assert (apart > 0.1).mean(1).min() > 0.05, looks(1600)[::10][i].name


def test_no_two_classes_have_the_same_pair_of_colours() -> None:
    """White checked with black is black checked with white."""
    assert len({frozenset((_COLOURS[name], _SECOND[name])) for name in _COLOURS}) == len(_COLOURS) == 10


def test_groups_are_those_of_lvis() -> None:
    assert [LongTail().group(images) for images in (0, 1, 10, 11, 100, 101)] == ["r", "r", "r", "c", "c", "f"]
    assert LongTail(rare=2, common=3).group(3) == "c"


# The plan


def test_every_class_has_its_number_of_pictures() -> None:
    """Zipf's law: rank n is in c / n pictures, of 0.75 * 3.5 * 400 = 1050 places in all, at most 200 and at least 2."""
    shown = plan(TAIL, pictures=400, objects=(1, 6), split=0, seed=0)
    counts = sorted(Counter(label for labels in shown for label in set(labels)).values(), reverse=True)
    assert len(counts) == 30 and counts[0] == 200 and counts[-1] >= 2
    assert 1000 <= sum(counts) <= 1050
    assert counts[1] / counts[11] == pytest.approx(6.0, rel=0.05)  # 1 / 2 against 1 / 12
    load = [len(labels) for labels in shown]
    assert max(load) <= 10 and np.mean(load) == pytest.approx(3.5, rel=0.1)


def test_both_splits_have_the_same_common_classes() -> None:
    rankings = []
    for split in (0, 1):
        shown = plan(TAIL, pictures=400, objects=(1, 6), split=split, seed=5)
        rankings.append([k for k, _ in Counter(label for labels in shown for label in set(labels)).most_common(5)])
    assert rankings[0] == rankings[1]
    other = plan(TAIL, pictures=400, objects=(1, 6), split=0, seed=6)
    assert other != plan(TAIL, pictures=400, objects=(1, 6), split=0, seed=5)


def test_more_classes_than_places_leave_the_last_ones_out() -> None:
    shown = plan(LongTail(), pictures=20, objects=(1, 8), split=0, seed=0)
    counts = Counter(label for labels in shown for label in set(labels))
    assert len(counts) == round(20 * 4.5 * 0.75)
    assert len(shown) == 20 and len(classes_of(LongTail())) == 1203


# The files


def test_the_files_have_the_keys_of_lvis(data: Path) -> None:
    for split, number in (("train", 40), ("val", 20)):
        content = read(data, split)
        assert set(content) == {"info", "licenses", "images", "annotations", "categories"}
        assert len(content["images"]) == number and len(content["categories"]) == 30
        assert all(set(image) >= IMAGE_KEYS and "file_name" not in image for image in content["images"])
        assert all(set(category) == CATEGORY_KEYS for category in content["categories"])
        keys = {"id", "image_id", "category_id", "bbox", "area", "segmentation"}
        assert all(set(item) == keys for item in content["annotations"])
        for image in content["images"]:
            with Image.open(data.joinpath(*image["coco_url"].split("/")[-2:])) as picture:
                assert picture.size == (64, 64)
    assert [category["id"] for category in read(data, "val")["categories"]] == list(range(1, 31))
    names = [category["name"] for category in read(data, "train")["categories"]]
    assert names == sorted(names) == [look.name for look in classes_of(TAIL)]


def test_counts_and_groups_are_those_of_the_annotations(data: Path) -> None:
    train, val = read(data, "train"), read(data, "val")
    for content in (train, val):
        for category in content["categories"]:
            own = [item for item in content["annotations"] if item["category_id"] == category["id"]]
            assert category["instance_count"] == len(own)
            assert category["image_count"] == len({item["image_id"] for item in own})
    groups = [category["frequency"] for category in train["categories"]]
    assert groups == [TAIL.group(category["image_count"]) for category in train["categories"]]
    assert groups == [category["frequency"] for category in val["categories"]]
    assert set(groups) == {"r", "c", "f"}


def test_federated_fields_of_a_picture(data: Path) -> None:
    partial = 0
    for content in (read(data, "train"), read(data, "val")):
        present: dict[int, set[int]] = {image["id"]: set() for image in content["images"]}
        for item in content["annotations"]:
            present[item["image_id"]].add(item["category_id"])
        for image in content["images"]:
            own, absent = present[image["id"]], set(image["neg_category_ids"])
            assert len(absent) == len(image["neg_category_ids"]) == 3  # a tenth of 30
            assert not absent & own
            assert set(image["not_exhaustive_category_ids"]) <= own
            partial += len(image["not_exhaustive_category_ids"])
    assert partial > 0


def entry(category: int, x: float) -> dict[str, Any]:
    return {"category_id": category, "bbox": [x, 0.0, 4.0, 4.0], "area": 16.0, "iscrowd": 0, "segmentation": {}}


def test_half_of_the_objects_of_a_class_that_is_annotated_in_part_are_left_out() -> None:
    """Four objects of class 1 in each of many pictures, and one of class 2, which never is."""
    pictures = [[entry(1, 0.0), entry(1, 9.0), entry(2, 20.0), entry(1, 30.0), entry(1, 40.0)]] * 200
    tail = LongTail(classes=3)
    content = lvis_file(classes_of(tail), pictures, tail, split="val", size=64, first_id=1, seed=0)
    kept: dict[int, Counter[int]] = {image["id"]: Counter() for image in content["images"]}
    for item in content["annotations"]:
        kept[item["image_id"]][item["category_id"]] += 1
    partly = [image["id"] for image in content["images"] if image["not_exhaustive_category_ids"]]
    assert {tuple(image["not_exhaustive_category_ids"]) for image in content["images"]} == {(), (1,)}
    assert all(kept[i] == {1: 2 if i in partly else 4, 2: 1} for i in kept)
    # Three in ten, within four standard deviations.
    assert len(partly) == pytest.approx(60, abs=4 * math.sqrt(200 * 0.3 * 0.7))
    assert {tuple(image["neg_category_ids"]) for image in content["images"]} == {(3,)}


def test_it_is_read_as_lvis_and_made_by_a_spec(tmp_path: Path) -> None:
    made = {"train": 6, "val": 3, "size": 64, "long_tail": {"classes": 8}}
    config = DataConfig.model_validate({"dir": str(tmp_path / "set"), "synthetic": made})
    train = open_split(config, "train")
    assert train.classes == tuple(look.name for look in classes_of(LongTail(classes=8)))
    assert sum(train.object_counts()) > 0 and train[0].image.shape == (3, 64, 64)
    partly = {i["id"]: i["not_exhaustive_category_ids"] for i in read(tmp_path / "set", "train")["images"]}
    assert train.not_exhaustive == {i: tuple(k - 1 for k in ids) for i, ids in partly.items() if ids}


def test_the_same_settings_give_the_same_files_and_others_are_refused(data: Path, tmp_path: Path) -> None:
    again = generate(tmp_path / "again", train=40, val=20, size=64, objects=(1, 6), long_tail=TAIL, workers=2)
    for split in ("train", "val"):
        assert read(again, split) == read(data, split)
    names = sorted(path.relative_to(data) for path in data.rglob("*.jpg"))
    assert len(names) == 60
    assert all((data / name).read_bytes() == (again / name).read_bytes() for name in names)
    with pytest.raises(UserError, match="holds synthetic data of other settings"):
        generate(again, train=40, val=20, size=64, objects=(1, 6), crowds=0.0)
    with pytest.raises(UserError, match=r"crowds=0\.1: expected 0 with a long tail"):
        generate(tmp_path / "other", train=1, val=1, size=64, crowds=0.1, long_tail=TAIL)
