"""Random detections against the official evaluators themselves: the whole curves of COCOeval and of LVISEval.

Boxes on a coarse grid and few scores give ties of both, empty boxes, objects at the borders of the size ranges, empty
images and classes without objects.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hotcoco import mask as rle  # that of pycocotools uses what numpy deprecates
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from codetr.evaluation.evaluators import EVALUATORS, Evaluator, IouType, Rules, open_evaluator, score
from codetr.evaluation.figures import Curves, Figures
from codetr.evaluation.results import Results
from codetr.evaluation.truth import GroundTruth

Entry = dict[str, Any]
SIZE = (128, 128)
IMAGES, CLASSES = range(10, 13), (1, 4, 7)


def rectangle(box: list[int]) -> Entry:
    x, y, w, h = box
    pixels = np.zeros(SIZE, dtype=np.uint8, order="F")
    pixels[y : y + h, x : x + w] = 1
    code = masks.encode(pixels)
    return {"size": code["size"], "counts": code["counts"].decode()}


# Two families of overlapping boxes, of IoU 0.5 to 1, around 32^2 and 96^2 square pixels, an empty box, and any box.
families = [
    [0, 0, 32, 32],
    [0, 0, 32, 28],
    [4, 0, 32, 32],
    [8, 8, 96, 96],
    [8, 8, 100, 96],
    [8, 8, 96, 64],
    [8, 8, 0, 8],
]
side = st.integers(0, 12).map(lambda step: step * 8)
box = st.sampled_from(families) | st.tuples(st.just(8), st.just(0), side, side).map(list)
image, kind = st.sampled_from(IMAGES), st.sampled_from(CLASSES[:2]) | st.sampled_from(CLASSES)
crowd = st.integers(0, 1)
share = st.sampled_from([1.0, 0.5])  # of a box's area that is annotated
an_object = st.tuples(image, kind, box, crowd, share)
objects = st.lists(an_object, max_size=5) | st.lists(an_object, min_size=6, max_size=12)
value = st.sampled_from([0.1, 0.5, 0.9]) | st.floats(0, 1, width=32)
detection = st.tuples(image, kind, box, value)
found = st.lists(detection, min_size=1, max_size=5) | st.lists(detection, min_size=12, max_size=30)
limits = st.sampled_from([1, 3, 100])
pairs = [(image, kind) for image in IMAGES for kind in CLASSES]
classes_of_images = st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs)).map(
    lambda chosen: [pair for pair, is_chosen in zip(pairs, chosen, strict=True) if is_chosen]
)


def annotations(entries: list[tuple[Any, ...]], *, with_masks: bool) -> list[Entry]:
    """Numbered from 1: the official evaluators take an object whose id is 0 for one that is not matched."""
    keys = ("image_id", "category_id", "bbox", "iscrowd")
    made = [
        {"id": number, **dict(zip(keys, row, strict=True)), "area": part * row[2][2] * row[2][3]}
        for number, (*row, part) in enumerate(entries, start=1)
    ]
    return [{**entry, "segmentation": rectangle(entry["bbox"])} if with_masks else entry for entry in made]


def content(entries: list[Entry], **of_images: list[tuple[int, int]]) -> Entry:
    images = [
        {"id": number, "height": SIZE[0], "width": SIZE[1]}
        | {key: sorted({kind for image, kind in pairs if image == number}) for key, pairs in of_images.items()}
        for number in IMAGES
    ]
    categories = [
        {"id": number, "name": f"class {number}", "frequency": frequency}
        for number, frequency in zip(CLASSES, "rcf", strict=True)
    ]
    return {"images": images, "categories": categories, "annotations": entries}


def detections(entries: list[tuple[Any, ...]], *, with_masks: bool) -> list[Entry]:
    """A box that comes with a mask would decide about its area in the official evaluators."""
    keys = ("image_id", "category_id", "bbox", "score")
    made = [dict(zip(keys, row, strict=True)) for row in entries]
    if not with_masks:
        return made
    return [{**entry, "segmentation": rectangle(entry.pop("bbox"))} for entry in made]


def results_of(entries: list[Entry]) -> Results:
    rows = [[e["image_id"], *e.get("bbox", (0, 0, 0, 0)), e["score"], e["category_id"]] for e in entries]
    codes = tuple(entry["segmentation"] for entry in entries) if "segmentation" in entries[0] else None
    return replace(Results.of(np.array(rows, dtype=np.float64)), segmentations=codes)


class Recorded(Evaluator):
    """Keeps the curves that the figures were made of."""

    def __init__(self, name: str) -> None:
        self.inner = open_evaluator(name)
        self.made: list[Curves] = []

    def curves(self, *arguments: Any) -> Curves:
        self.made.append(self.inner.curves(*arguments))
        return self.made[-1]


def assert_equal_curves(truth: Entry, entries: list[Entry], rules: Rules, expected: Curves) -> Iterator[Figures]:
    for name in EVALUATORS:
        recorded = Recorded(name)
        yield score(GroundTruth.parse(truth, file="gt.json"), results_of(entries), evaluator=recorded, rules=rules)
        (curves,) = recorded.made
        # All do the same additions and divisions in float64; 1e-9 leaves room for another order.
        np.testing.assert_allclose(curves.precision, expected.precision, rtol=0, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(curves.recall, expected.recall, rtol=0, atol=1e-9, err_msg=name)


def official_coco(truth: Entry, entries: list[Entry], rules: Rules) -> Curves:
    coco = COCO()
    coco.dataset = copy.deepcopy(truth)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(entries)), rules.iou_type)
        evaluation.params.maxDets = list(rules.limits)
        evaluation.params.useCats = int(not rules.class_agnostic)
        evaluation.evaluate()
        evaluation.accumulate()
    return Curves(evaluation.eval["precision"], evaluation.eval["recall"])


@settings(max_examples=60)
@given(objects, found, limits, st.booleans(), st.sampled_from(["bbox", "segm"]))
def test_coco(entries: list[Any], rows: list[Any], limit: int, agnostic: bool, iou_type: IouType) -> None:
    with_masks = iou_type == "segm"
    truth, dets = content(annotations(entries, with_masks=with_masks)), detections(rows, with_masks=with_masks)
    rules = Rules(iou_type, limit, agnostic)
    list(assert_equal_curves(truth, dets, rules, official_coco(truth, dets, rules)))


@pytest.fixture(scope="module")
def lvis_api() -> Iterator[Any]:
    """The published package, which needs a name that numpy no longer has, and a method that logging deprecates."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(np, "float", float, raising=False)
        patch.setattr(logging.Logger, "warn", logging.Logger.warning, raising=False)
        yield pytest.importorskip("lvis")


def official_lvis(api: Any, truth: Entry, entries: list[Entry], rules: Rules) -> tuple[Curves, dict[str, float]]:
    data_set = api.LVIS.__new__(api.LVIS)
    data_set.logger = logging.getLogger("lvis")
    data_set.dataset = copy.deepcopy(truth)
    data_set._create_index()
    limit = -1 if rules.limit is None else rules.limit
    evaluation = api.LVISEval(data_set, api.LVISResults(data_set, copy.deepcopy(entries), limit), rules.iou_type)
    evaluation.params.max_dets = 300 if rules.limit is None else rules.limit
    evaluation.run()
    return Curves(evaluation.eval["precision"][..., None], evaluation.eval["recall"][..., None]), evaluation.results


def assert_lvis(api: Any, truth: Entry, entries: list[Entry], rules: Rules) -> None:
    curves, figures = official_lvis(api, truth, entries, rules)
    for own in assert_equal_curves(truth, entries, rules, curves):
        assert own.as_dict() == pytest.approx({key: float(value) for key, value in figures.items()}, abs=1e-9, rel=0)


@settings(max_examples=60)
@given(objects, found, limits, classes_of_images, classes_of_images, st.sampled_from(["bbox", "segm"]))
def test_lvis(
    lvis_api: Any,
    entries: list[Any],
    rows: list[Any],
    limit: int,
    negative: list[Any],
    some: list[Any],
    iou_type: IouType,
) -> None:
    with_masks = iou_type == "segm"
    truth = content(
        annotations(entries, with_masks=with_masks), neg_category_ids=negative, not_exhaustive_category_ids=some
    )
    rules = Rules(iou_type, limit, protocol="lvis")
    assert_lvis(lvis_api, truth, detections(rows, with_masks=with_masks), rules)


@settings(max_examples=40)
@given(objects, found, classes_of_images)
def test_fixed_ap(lvis_api: Any, entries: list[Any], rows: list[Any], negative: list[Any]) -> None:
    """The best two of each class, chosen by hand, are what the official evaluator without a limit is given."""
    truth = content(annotations(entries, with_masks=False), neg_category_ids=negative, not_exhaustive_category_ids=[])
    ranked = sorted(detections(rows, with_masks=False), key=lambda entry: -entry["score"])
    best = [[entry for entry in ranked if entry["category_id"] == kind][:2] for kind in CLASSES]
    rules = Rules(protocol="lvis", fixed=True)
    expected = official_lvis(lvis_api, truth, list(chain(*best)), rules)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codetr.evaluation.lvis_rules.FIXED_LIMIT", 2)
        list(assert_equal_curves(truth, detections(rows, with_masks=False), rules, expected))


@pytest.fixture(scope="module")
def lvis_val_100(shared: Path) -> tuple[Entry, list[Entry]]:
    folder = shared / "data" / "eval"
    return json.loads((folder / "lvis_val_100.json").read_text()), json.loads(
        (folder / "lvis_val_100_dt.json").read_text()
    )


@pytest.mark.parametrize("limit", [None, 50])
def test_lvis_val_100_class_by_class(lvis_api: Any, lvis_val_100: tuple[Entry, list[Entry]], limit: int | None) -> None:
    truth, entries = lvis_val_100
    assert_lvis(lvis_api, truth, entries, Rules(max_detections=limit, protocol="lvis"))


def moved_masks(truth: Entry, rng: np.random.Generator) -> list[Entry]:
    """Two for each object, shifted by some pixels; one in eight of another class of its image."""
    images = {entry["id"]: entry for entry in truth["images"]}
    made = []
    for entry in truth["annotations"] * 2:
        size = images[entry["image_id"]]["height"], images[entry["image_id"]]["width"]
        pixels = rle.decode(rle.merge(rle.frPyObjects(entry["segmentation"], *size)))
        code = masks.encode(np.asfortranarray(np.roll(pixels, rng.integers(-3, 4, 2), axis=(0, 1))))
        others = images[entry["image_id"]]["neg_category_ids"]
        kind = int(rng.choice(others)) if others and rng.random() < 1 / 8 else entry["category_id"]
        mask = {"size": list(code["size"]), "counts": code["counts"].decode()}
        value = round(float(rng.random()), 2)  # ties
        made.append({"image_id": entry["image_id"], "category_id": kind, "score": value, "segmentation": mask})
    return made


def test_masks_of_lvis_val_100(lvis_api: Any, lvis_val_100: tuple[Entry, list[Entry]]) -> None:
    truth = lvis_val_100[0]
    entries = moved_masks(truth, np.random.default_rng(0))
    assert_lvis(lvis_api, truth, entries, Rules("segm", protocol="lvis"))
