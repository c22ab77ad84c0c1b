from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as masks

from codetr.errors import UserError
from codetr.evaluation.evaluators import EVALUATORS, Rules, open_evaluator, score
from codetr.evaluation.figures import UNDEFINED
from codetr.evaluation.results import Results, read_results
from codetr.evaluation.truth import GroundTruth

ORACLES = [
    ("coco_val2014_100/bbox", "coco_val2014_100_gt", "coco_val2014_fakebbox100_results", Rules()),
    ("coco_val2014_100/segm", "coco_val2014_100_gt", "coco_val2014_fakesegm100_results", Rules(iou_type="segm")),
    (
        "coco_val2014_100/bbox/useCats0",
        "coco_val2014_100_gt",
        "coco_val2014_fakebbox100_results",
        Rules(class_agnostic=True),
    ),
    (
        "coco_val2014_100/bbox/maxDets300",
        "coco_val2014_100_gt",
        "coco_val2014_fakebbox100_results",
        Rules(max_detections=300),
    ),
    ("sampled/bbox", "sampled_gt", "sampled_dt", Rules()),
    ("ignore/bbox", "ignore_gt", "ignore_dt", Rules()),
    ("lvis_val_100/bbox", "lvis_val_100", "lvis_val_100_dt", Rules(protocol="lvis")),
    (
        "lvis_val_100/bbox/max_dets50",
        "lvis_val_100",
        "lvis_val_100_dt",
        Rules(protocol="lvis", max_detections=50),
    ),
]


@pytest.mark.parametrize("name", EVALUATORS)
@pytest.mark.parametrize(("row", "truth", "found", "rules"), ORACLES, ids=[oracle[0] for oracle in ORACLES])
def test_figures_equal_the_official_ones(
    shared: Path, name: str, row: str, truth: str, found: str, rules: Rules
) -> None:
    folder = shared / "data" / "eval"
    expected = json.loads((folder / "expected.json").read_text())
    figures = score(
        GroundTruth.load(folder / f"{truth}.json"),
        read_results(folder / f"{found}.json", iou_type=rules.iou_type),
        evaluator=open_evaluator(name),
        rules=rules,
    )
    shown = figures.as_dict()
    stats = expected["stats"][row]
    # The official figures are stored in full; the same float64 sums in another order differ by less than 1e-9.
    assert {key: shown[key] for key in stats} == pytest.approx(stats, abs=1e-9, rel=0)
    classes = expected["per_category_AP"].get(row)
    if classes is not None:
        assert {key: value for key, value in figures.per_class.items() if value != UNDEFINED} == pytest.approx(
            classes, abs=1e-9, rel=0
        )


def rectangle(x: int, y: int, w: int, h: int, size: tuple[int, int] = (128, 128)) -> dict[str, Any]:
    pixels = np.zeros(size, dtype=np.uint8, order="F")
    pixels[y : y + h, x : x + w] = 1
    rle = masks.encode(pixels)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def truth_of(
    annotations: list[dict[str, Any]], *, images: int = 2, categories: tuple[int, ...] = (1, 2)
) -> GroundTruth:
    content = {
        "images": [{"id": index, "height": 128, "width": 128} for index in range(images)],
        "categories": [{"id": index, "name": f"class {index}"} for index in categories],
        "annotations": [{"id": index, **annotation} for index, annotation in enumerate(annotations)],
    }
    return GroundTruth.parse(content, file="gt.json")


def figures_of(truth: GroundTruth, rows: list[list[float]], name: str, **rules: Any) -> Any:
    results = Results.of(np.array(rows, dtype=np.float64).reshape(-1, 7))
    return score(truth, results, evaluator=open_evaluator(name), rules=Rules(**rules))


BOX = {"image_id": 0, "category_id": 1, "bbox": [10, 10, 40, 40]}
"""1600 square pixels: medium. As every annotation that comes first in its file here, it has the id 0."""


@pytest.mark.parametrize("name", EVALUATORS)
def test_one_object_found(name: str) -> None:
    figures = figures_of(truth_of([BOX]), [[0, 10, 10, 40, 40, 0.9, 1]], name)
    ones = dict.fromkeys(("AP", "AP50", "AP75", "APm", "AR1", "AR10", "AR100", "ARm"), 1.0)
    undefined = dict.fromkeys(("APs", "APl", "ARs", "ARl"), UNDEFINED)
    # The interpolated precision divides by one object plus the spacing of 1.
    assert figures.as_dict() == pytest.approx({**ones, **undefined}, abs=1e-12)
    assert figures.per_class == pytest.approx({"class 1": 1.0, "class 2": UNDEFINED}, abs=1e-12)
    first, second = figures.by_class.values()
    assert asdict(first) == pytest.approx(
        {"AP": 1, "AP50": 1, "APs": -1, "APm": 1, "APl": -1, "AR": 1, "objects": 1}, abs=1e-12
    )
    assert set(asdict(second).values()) == {UNDEFINED, 0}


@pytest.mark.parametrize("name", EVALUATORS)
def test_a_shifted_box_counts_up_to_its_overlap(name: str) -> None:
    # 40 x 40 against 30 x 40 inside it: IoU 0.75, so six of the ten thresholds, 0.50 to 0.75, are met.
    figures = figures_of(truth_of([BOX]), [[0, 10, 10, 30, 40, 0.9, 1]], name)
    assert pytest.approx((0.6, 1.0, 1.0, 0.6), abs=1e-12) == (figures.AP, figures.AP50, figures.AP75, figures.AR1)


@pytest.mark.parametrize("name", EVALUATORS)
def test_nothing_found_is_zero_and_no_objects_undefined(name: str) -> None:
    found_nothing = figures_of(truth_of([BOX]), [], name)
    assert (found_nothing.AP, found_nothing.AR1, found_nothing.AR100, found_nothing.APm) == (0, 0, 0, 0)
    assert found_nothing.per_class == {"class 1": 0.0, "class 2": UNDEFINED}
    no_objects = figures_of(truth_of([]), [[0, 10, 10, 40, 40, 0.9, 1]], name)
    assert set(no_objects.as_dict().values()) == {UNDEFINED}
    assert set(figures_of(truth_of([]), [], name).as_dict().values()) == {UNDEFINED}


@pytest.mark.parametrize("name", EVALUATORS)
def test_crowd_regions_forgive(name: str) -> None:
    crowd = {**BOX, "bbox": [60, 60, 60, 60], "iscrowd": 1}
    rows = [[0, 60, 60, 10, 10, 0.95, 1], [0, 100, 100, 9, 9, 0.93, 1], [0, 10, 10, 40, 40, 0.9, 1]]
    assert pytest.approx(1.0, abs=1e-12) == figures_of(truth_of([crowd, BOX]), rows, name).AP
    # Without the region both are false positives above the hit: precision 1/3.
    assert pytest.approx(1 / 3, abs=1e-12) == figures_of(truth_of([BOX]), rows, name).AP


@pytest.mark.parametrize("name", EVALUATORS)
def test_classes_are_told_apart_unless_asked_not_to(name: str) -> None:
    rows = [[0, 10, 10, 40, 40, 0.9, 2]]
    assert figures_of(truth_of([BOX]), rows, name).AP == 0
    agnostic = figures_of(truth_of([BOX]), rows, name, class_agnostic=True)
    assert pytest.approx(1.0, abs=1e-12) == agnostic.AP
    assert agnostic.per_class == {}


@pytest.mark.parametrize("name", EVALUATORS)
@pytest.mark.parametrize(("limit", "recall"), [(1, 0.0), (2, 0.0), (11, 1.0), (300, 1.0)])
def test_only_the_best_detections_count(name: str, limit: int, recall: float) -> None:
    wrong = [[0, 80, 80, 40, 40, 0.99 - step / 100, 1] for step in range(10)]
    figures = figures_of(truth_of([BOX]), [*wrong, [0, 10, 10, 40, 40, 0.5, 1]], name, max_detections=limit)
    assert pytest.approx((0.0, 0.0, recall), abs=1e-12) == (figures.AR1, figures.AR10, figures.AR100)
    assert "AR100" not in figures.as_dict()
    assert figures.as_dict()["AR"] == pytest.approx(recall, abs=1e-12)


@pytest.mark.parametrize("name", EVALUATORS)
def test_any_ids_can_be_used(name: str) -> None:
    content = {
        "images": [{"id": 2**40}, {"id": -3}, {"id": 0}],
        "categories": [{"id": -1, "name": "b"}, {"id": 0, "name": "a"}],
        "annotations": [{**BOX, "image_id": -3, "category_id": -1}, {**BOX, "image_id": 2**40, "category_id": 0}],
    }
    truth = GroundTruth.parse(content, file="gt.json")
    rows = [[-3, 10, 10, 40, 40, 0.9, -1], [2**40, 10, 10, 40, 40, 0.9, -1]]
    # The class b has one hit and a false positive of the same score after it; a has nothing.
    assert figures_of(truth, rows, name).per_class == pytest.approx({"b": 1.0, "a": 0.0}, abs=1e-12)


@pytest.mark.parametrize("name", EVALUATORS)
def test_truth_and_results_are_left_as_they_are(name: str) -> None:
    polygon = [[10.0, 10.0, 50.0, 10.0, 50.0, 50.0, 10.0, 50.0]]
    truth = truth_of([{**BOX, "segmentation": polygon}])
    results = dataclasses.replace(
        Results.of(np.array([[0, 0, 0, 0, 0, 0.5, 1.0]])), segmentations=(rectangle(0, 0, 128, 128),)
    )
    before = repr((truth, results))
    first = score(truth, results, evaluator=open_evaluator(name), rules=Rules(iou_type="segm"))
    again = score(truth, results, evaluator=open_evaluator(name), rules=Rules(iou_type="segm"))
    assert repr((truth, results)) == before
    assert first == again


@pytest.mark.parametrize("name", EVALUATORS)
def test_unknown_ids_reach_the_user(name: str) -> None:
    with pytest.raises(
        UserError, match=r"detections: 1 of 1 detections name category ids that gt.json does not have: 3"
    ):
        figures_of(truth_of([BOX]), [[0, 10, 10, 40, 40, 0.9, 3]], name)


@pytest.mark.parametrize("name", EVALUATORS)
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (rectangle(0, 0, 64, 64, size=(64, 128)), r"entry 0 has a mask of 64 x 128 .* image 0 is 128 x 128"),
        ({"size": [128, 128], "counts": "0a"}, "entry 0 has a damaged mask"),
    ],
)
def test_masks_that_do_not_fit_reach_the_user(name: str, mask: dict[str, Any], message: str) -> None:
    truth = truth_of([{**BOX, "segmentation": rectangle(10, 10, 40, 40)}])
    results = dataclasses.replace(Results.of(np.array([[0, 0, 0, 0, 0, 0.5, 1.0]])), segmentations=(mask,))
    with pytest.raises(UserError, match=message):
        score(truth, results, evaluator=open_evaluator(name), rules=Rules(iou_type="segm"))


def test_pycocotools_stands_in_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    monkeypatch.delitem(sys.modules, "codetr.evaluation.hotcoco_adapter", raising=False)
    with pytest.warns(UserWarning, match="hotcoco cannot be imported .* evaluating with pycocotools"):
        assert open_evaluator().name == "pycocotools"
    said: list[str] = []
    assert figures_of(truth_of([BOX]), [], open_evaluator(announce=said.append).name).AP == 0
    assert len(said) == 1


def test_no_evaluator_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    monkeypatch.delitem(sys.modules, "codetr.evaluation.pycocotools_adapter", raising=False)
    with pytest.raises(UserError, match="pip install pycocotools"):
        open_evaluator("pycocotools")


def test_unknown_evaluator() -> None:
    with pytest.raises(UserError, match=r"no evaluator 'coco'. Choose one of hotcoco, pycocotools"):
        open_evaluator("coco")


def test_limits_are_those_of_the_protocol() -> None:
    assert (Rules().limits, Rules(max_detections=5).limits) == ((1, 10, 100), (1, 5, 5))
    assert Rules(protocol="lvis").limits == (300,)
    assert Rules(protocol="lvis", max_detections=1000).limits == (1000,)
    assert (Rules(protocol="lvis", fixed=True).limit, Rules(protocol="lvis", fixed=True).limits) == (None, (10_000,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fixed": True}, "defined for LVIS"),
        ({"fixed": True, "protocol": "lvis", "max_detections": 300}, "no limit of detections"),
        ({"class_agnostic": True, "protocol": "lvis"}, "class by class"),
    ],
)
def test_rules_that_exclude_each_other(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Rules(**settings)


def test_lvis_needs_an_lvis_file() -> None:
    with pytest.raises(UserError, match=r"gt\.json: LVIS's rules need .* `neg_category_ids`.* or COCO's rules"):
        figures_of(truth_of([BOX]), [], "hotcoco", protocol="lvis")
