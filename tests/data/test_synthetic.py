from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from codetr.data.scene import _Layer, _visible, compose
from codetr.data.scene_shapes import CLASSES, SHAPES, Pose, rasterise
from codetr.data.scene_textures import noise, ramp
from codetr.data.scene_worker import Job, annotate, render_all
from codetr.data.synthetic import RECORD, generate
from codetr.errors import UserError


def read(directory: Path, split: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((directory / "annotations" / f"instances_{split}.json").read_text())
    return data


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 + 20 small pictures, a tenth of them with a crowd."""
    return generate(tmp_path_factory.mktemp("synthetic") / "data", train=40, val=20, size=96, crowds=0.1, workers=2)


# Shapes


def test_disc_covers_its_area_and_nothing_beyond_its_radius() -> None:
    patch = rasterise(SHAPES["disc"], Pose(20.0, 30.0, 10.0))
    area = float(np.clip(0.5 - patch.distance, 0.0, 1.0).sum())
    # Antialiasing of a circle of 9.2 pixels errs by far less than one percent.
    assert area == pytest.approx(math.pi * 9.2**2, rel=0.01)
    rows, columns = np.nonzero(patch.distance <= 0.0)
    assert (rows.min() + patch.top, rows.max() + patch.top) == (21, 38)
    assert (columns.min() + patch.left, columns.max() + patch.left) == (11, 28)


def test_distance_is_in_pixels_near_the_outline() -> None:
    patch = rasterise(SHAPES["square"], Pose(50.5, 50.5, 20.0))
    row = patch.distance[50 - patch.top]
    # The right edge lies at 50.5 + 0.76 * 20 = 65.7; the centre of column 64 at 64.5 is 1.2 inside, of 67 1.8 outside.
    assert row[64 - patch.left] == pytest.approx(-1.2, abs=0.05)
    assert row[67 - patch.left] == pytest.approx(1.8, abs=0.05)


def test_aspect_keeps_the_area_and_rotation_turns_the_long_side() -> None:
    long = rasterise(SHAPES["disc"], Pose(0.0, 0.0, 20.0, aspect=2.0, angle=math.pi / 2)).distance <= 0.0
    assert long.sum() == pytest.approx(math.pi * 18.4**2, rel=0.02)
    height, width = long.any(axis=1).sum(), long.any(axis=0).sum()
    assert height / width == pytest.approx(2.0, rel=0.05)


def test_patch_is_cut_at_the_picture() -> None:
    patch = rasterise(SHAPES["disc"], Pose(0.0, 5.0, 4.0))
    part, (rows, columns) = patch.inside(8, 6)
    assert (part.left, columns.start) == (0, 0)
    assert part.distance.shape == (rows.stop - rows.start, columns.stop - columns.start)
    assert rows.stop == 8 and columns.stop == 6
    gone, where = rasterise(SHAPES["disc"], Pose(-90.0, 5.0, 4.0)).inside(8, 6)
    assert gone.distance.size == 0 and np.zeros((8, 6))[where].size == 0


def test_classes_differ_in_silhouette_at_any_rotation() -> None:
    def silhouettes(name: str, turns: int) -> list[np.ndarray]:
        angles = [2.0 * math.pi * k / turns for k in range(turns)]
        return [rasterise(SHAPES[name], Pose(0.0, 0.0, 16.0, angle=angle)).distance <= 0.0 for angle in angles]

    for i, first in enumerate(CLASSES):
        still = silhouettes(first, 1)[0]
        for second in CLASSES[i + 1 :]:
            overlaps = [(still & other).sum() / (still | other).sum() for other in silhouettes(second, 24)]
            assert max(overlaps) < 0.85, (first, second)


def test_noise_and_ramp() -> None:
    field = noise(np.random.default_rng(0), 40, cell=10.0, octaves=3)
    assert field.shape == (40, 40) and field.min() == 0.0 and field.max() == 1.0
    colours = ramp(np.asarray([[0.0, 0.5, 1.0]]), np.asarray([[0.0, 0.0, 0.0], [1.0, 0.5, 0.0]]))
    np.testing.assert_allclose(colours, [[[0.0, 0.0, 0.0], [0.5, 0.25, 0.0], [1.0, 0.5, 0.0]]])


# Scenes


def test_hidden_object_is_left_out_and_hides_nothing() -> None:
    square = CLASSES.index("square")
    bottom = _Layer(square, (Pose(20.0, 20.0, 8.0),))
    middle = _Layer(square, (Pose(21.0, 20.0, 9.0),))  # all but hidden by the top, and would all but hide the bottom
    top = _Layer(square, (Pose(25.0, 20.0, 10.0),))
    layers, masks = _visible([bottom, middle, top], 48)
    assert layers == [top]
    apart = _Layer(square, (Pose(40.0, 20.0, 10.0),))
    layers, masks = _visible([bottom, middle, apart], 48)
    assert layers == [middle, apart]
    assert not (masks[0] & masks[1]).any()
    beside = _Layer(square, (Pose(8.0, 20.0, 8.0),))
    assert _visible([beside, middle, top], 48)[0] == [
        beside,
        top,
    ]  # without the middle, all of it but its cut-off is seen


def test_object_mostly_outside_the_picture_is_left_out() -> None:
    assert _visible([_Layer(0, (Pose(-5.0, 20.0, 10.0),))], 48)[0] == []
    assert len(_visible([_Layer(0, (Pose(0.5, 20.0, 10.0),))], 48)[0]) == 1


def test_crowd_is_one_region_around_many_objects() -> None:
    scene = compose(np.random.default_rng(3), 96, objects=(0, 0), clutter=1.0, crowd=True)
    assert [item.crowd for item in scene.objects] == [True]
    (annotation,) = annotate(scene)
    assert annotation["iscrowd"] == 1 and annotation["area"] > 200.0


def test_larger_scene_has_more_objects() -> None:
    scene = compose(np.random.default_rng(0), 320, objects=(14, 14), clutter=1.0, crowd=False)
    assert scene.pixels.shape == (320, 320, 3) and scene.pixels.dtype == np.uint8
    assert 8 <= len(scene.objects) <= 14


# The data set


# pycocotools 2.0 decodes through an array interface that numpy 2 finds old-fashioned.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_every_region_is_a_tight_visible_mask(data: Path) -> None:
    for split, count in (("train", 40), ("val", 20)):
        coco = read(data, split)
        assert len(coco["images"]) == count
        seen = {image["id"]: np.zeros((96, 96), dtype=int) for image in coco["images"]}
        assert [item["id"] for item in coco["annotations"]] == list(range(1, len(coco["annotations"]) + 1))
        for item in coco["annotations"]:
            mask = rle.decode(item["segmentation"])
            rows, columns = np.nonzero(mask)
            left, top = columns.min(), rows.min()
            assert item["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
            assert item["area"] == mask.sum() >= 20
            assert 1 <= item["category_id"] <= len(CLASSES)
            seen[item["image_id"]] += mask
        assert max(layer.max() for layer in seen.values()) == 1  # what one object hides belongs to no other


def test_pictures_are_on_disk_in_the_annotated_size(data: Path) -> None:
    names = [image["file_name"] for split in ("train", "val") for image in read(data, split)["images"]]
    assert sorted(path.name for path in (data / "images").iterdir()) == sorted(names) and len(set(names)) == 60
    for image in read(data, "val")["images"]:
        with Image.open(data / "images" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (96, 96)
            assert np.asarray(picture.convert("L")).std() > 4.0


def test_splits_share_no_image_id_and_list_the_same_categories(data: Path) -> None:
    train, val = read(data, "train"), read(data, "val")
    assert [image["id"] for image in train["images"] + val["images"]] == list(range(1, 61))
    assert train["categories"] == val["categories"]
    assert [category["name"] for category in train["categories"]] == list(CLASSES)


def test_crowds_are_present_in_each_split(data: Path) -> None:
    crowds = [sum(item["iscrowd"] for item in read(data, split)["annotations"]) for split in ("train", "val")]
    # A tenth of 40 and of 20; one may be dropped if larger objects hide it.
    assert 3 <= crowds[0] <= 4 and 1 <= crowds[1] <= 2


def test_classes_are_long_tailed() -> None:
    counts: Counter[int] = Counter()
    for index in range(150):
        scene = compose(np.random.default_rng([5, index]), 64, objects=(6, 6), clutter=0.0, crowd=False)
        counts.update(item.label for item in scene.objects)
    assert set(counts) == set(range(len(CLASSES)))
    assert counts.most_common(1)[0][0] == 0
    head, tail = sum(counts[k] for k in range(3)), sum(counts[k] for k in range(7, 10))
    # Drawn with n ** -0.8: the first three classes are 3.7 times as frequent as the last three.
    assert head > 2.5 * tail


def test_result_depends_on_the_seed_and_not_on_the_workers(tmp_path: Path) -> None:
    def made(name: str, *, seed: int, workers: int) -> dict[str, bytes]:
        return contents(generate(tmp_path / name, train=5, val=2, size=48, seed=seed, crowds=0.5, workers=workers))

    one, three = made("one", seed=1, workers=1), made("three", seed=1, workers=3)
    other = made("other", seed=2, workers=1)
    assert len(one) == 7 + 2 + 1
    assert one == three
    assert all(one[name] != other[name] for name in one if name.startswith("annotations"))


def test_more_pictures_leave_the_first_ones_as_they_are(tmp_path: Path) -> None:
    few = contents(generate(tmp_path / "few", train=2, val=1, size=48, workers=1))
    many = contents(generate(tmp_path / "many", train=4, val=2, size=48, workers=1))
    pictures = [name for name in few if name.startswith("images")]
    assert len(pictures) == 3 and all(few[name] == many[name] for name in pictures)


def test_progress_counts_every_picture(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    generate(tmp_path / "data", train=2, val=1, size=48, workers=2, progress=lambda *call: calls.append(call))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    generate(tmp_path / "data", train=2, val=1, size=48, progress=lambda *call: calls.append(call))
    assert len(calls) == 3


def test_same_settings_are_reused_and_others_refused(tmp_path: Path) -> None:
    directory = generate(tmp_path / "data", train=1, val=1, size=48, workers=1)
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    assert generate(directory, train=1, val=1, size=48, workers=1) == directory
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before
    with pytest.raises(UserError, match=r"seed is 0, not 3.*another directory"):
        generate(directory, train=1, val=1, size=48, seed=3, workers=1)
    (directory / "annotations" / "instances_val.json").unlink()
    with pytest.raises(UserError, match=r"without annotations/instances_val\.json"):
        generate(directory, train=1, val=1, size=48, workers=1)
    (directory / RECORD).write_text("[1")
    with pytest.raises(UserError, match="cannot be read"):
        generate(directory, train=1, val=1, size=48, workers=1)


def test_foreign_directory_is_refused_and_an_empty_one_used(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="mine: is not empty"):
        generate(tmp_path / "mine", train=1, val=1, size=48, workers=1)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(UserError, match="is a file"):
        generate(tmp_path / "mine" / "thesis.txt", train=1, val=1, size=48, workers=1)
    (tmp_path / "empty").mkdir()
    assert (generate(tmp_path / "empty", train=1, val=1, size=48, workers=1) / RECORD).is_file()


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupted_run_leaves_nothing(tmp_path: Path, workers: int) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "data", train=4, val=1, size=48, workers=workers, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_failed_process_is_reported(tmp_path: Path) -> None:
    job = Job(str(tmp_path / "missing"), "{}.jpg", 0, 4, 0, 48, (1, 2), 1.0, 0.0)
    with pytest.raises(RuntimeError, match="ended with code 1"):
        render_all(job, workers=2, progress=lambda: None)


def test_all_wrong_settings_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        generate(tmp_path / "data", train=0, size=8, objects=(5, 2), crowds=2.0)
    for found in ("train=0", "size=8", "objects=5,2", "crowds=2.0"):
        assert found in str(error.value)
    assert list(tmp_path.iterdir()) == []
