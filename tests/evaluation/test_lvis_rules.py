"""What LVIS counts: the federated lists, the limits, frequency groups; each case small enough to follow by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from codetr.errors import UserError
from codetr.evaluation.evaluators import EVALUATORS, Rules, open_evaluator, score
from codetr.evaluation.federated import NEGATIVE, NOT_EXHAUSTIVE
from codetr.evaluation.figures import UNDEFINED, LvisFigures
from codetr.evaluation.lvis_rules import judged
from codetr.evaluation.results import Results
from codetr.evaluation.truth import GroundTruth

CAT, DOG, EEL = 2, 5, 9
BOX = [10, 10, 40, 40]
FAR = [90, 90, 30, 30]


def content(
    annotations: list[dict[str, Any]], *, negative: list[int] | None = None, some: list[int] | None = None
) -> dict[str, Any]:
    """Two images, 1 and 2; the lists are those of image 1."""
    return {
        "images": [
            {"id": 2, "height": 128, "width": 128, NEGATIVE: [], NOT_EXHAUSTIVE: []},
            {"id": 1, "height": 128, "width": 128, NEGATIVE: negative or [], NOT_EXHAUSTIVE: some or []},
        ],
        "categories": [
            {"id": DOG, "name": "dog", "frequency": "c", "image_count": 40},
            {"id": CAT, "name": "cat", "frequency": "f", "image_count": 400},
            {"id": EEL, "name": "eel", "frequency": "r", "image_count": 4},
        ],
        "annotations": [{"id": index, **entry} for index, entry in enumerate(annotations)],
    }


def truth_of(annotations: list[dict[str, Any]], **lists: Any) -> GroundTruth:
    return GroundTruth.parse(content(annotations, **lists), file="gt.json")


def results_of(*rows: list[float]) -> Results:
    """Rows of image, category, score, box."""
    columns = [[image, *box, value, kind] for image, kind, value, box in rows]  # type: ignore[str-unpack, misc]
    return Results.of(np.array(columns, dtype=np.float64).reshape(-1, 7))


def figures_of(truth: GroundTruth, *rows: Any, name: str = "hotcoco", **rules: Any) -> LvisFigures:
    figures = score(truth, results_of(*rows), evaluator=open_evaluator(name), rules=Rules(protocol="lvis", **rules))
    assert isinstance(figures, LvisFigures)
    return figures


A_CAT = {"image_id": 1, "category_id": CAT, "bbox": BOX}
HIT = [1, CAT, 0.5, BOX]


@pytest.mark.parametrize("name", EVALUATORS)
def test_only_classes_that_an_image_was_searched_for_are_judged(name: str) -> None:
    """A false dog above the hit of the only dog: it counts where dogs are known to be absent."""
    a_dog = {"image_id": 2, "category_id": DOG, "bbox": BOX}
    rows = [[1, DOG, 0.9, BOX], [2, DOG, 0.5, BOX]]
    assert pytest.approx(1.0, abs=1e-12) == figures_of(truth_of([a_dog]), *rows, name=name).AP
    assert pytest.approx(0.5, abs=1e-12) == figures_of(truth_of([a_dog], negative=[DOG]), *rows, name=name).AP


@pytest.mark.parametrize("name", EVALUATORS)
def test_what_is_not_exhaustively_annotated_forgives_but_does_not_lose_hits(name: str) -> None:
    rows = [[1, CAT, 0.9, FAR], HIT]
    assert pytest.approx(0.5, abs=1e-12) == figures_of(truth_of([A_CAT]), *rows, name=name).AP
    forgiving = figures_of(truth_of([A_CAT], some=[CAT]), *rows, name=name)
    assert pytest.approx((1.0, 1.0), abs=1e-12) == (forgiving.AP, forgiving.AR)


@pytest.mark.parametrize("name", EVALUATORS)
def test_the_limit_is_of_an_image_over_all_classes(name: str) -> None:
    better = [[1, DOG, 0.9, BOX], [1, EEL, 0.8, FAR]]
    assert figures_of(truth_of([A_CAT]), *better, HIT, name=name, max_detections=2).AR == 0
    found = figures_of(truth_of([A_CAT]), *better, HIT, name=name, max_detections=3)
    assert found.as_dict()["AR@3"] == pytest.approx(1.0, abs=1e-12)
    others = [[2, DOG, 0.9, BOX], [2, EEL, 0.8, FAR]]
    assert pytest.approx(1, abs=1e-12) == figures_of(truth_of([A_CAT]), *others, HIT, name=name, max_detections=1).AR


def test_of_equal_scores_the_first_count() -> None:
    rows = [[1, DOG, 0.5, BOX], HIT]
    assert figures_of(truth_of([A_CAT]), *rows, max_detections=1).AR == 0
    assert pytest.approx(1.0, abs=1e-12) == figures_of(truth_of([A_CAT]), *rows[::-1], max_detections=1).AR


@pytest.mark.parametrize("name", EVALUATORS)
def test_fixed_ap_has_a_limit_of_a_class_over_the_data_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 300 better detections in the image, of another class, are no hindrance; two of its own are."""
    rows = [*([1, DOG, 0.9, FAR] for _ in range(301)), HIT, [2, CAT, 0.6, BOX], [2, CAT, 0.6, BOX]]
    truth = truth_of([A_CAT])
    assert figures_of(truth, *rows, name=name).AR == 0
    fixed = figures_of(truth, *rows, name=name, fixed=True)
    assert fixed.max_detections is None
    assert fixed.as_dict()["AR@300"] == pytest.approx(1.0, abs=1e-12)
    for limit, recall in ((3, 1.0), (2, 0.0)):
        monkeypatch.setattr("codetr.evaluation.lvis_rules.FIXED_LIMIT", limit)
        assert pytest.approx(recall, abs=1e-12) == figures_of(truth, *rows, name=name, fixed=True).AR


@pytest.mark.parametrize("name", EVALUATORS)
def test_figures_of_frequency_groups(name: str) -> None:
    """The cat is found, the dog is missed, and there is no eel."""
    a_dog = {"image_id": 2, "category_id": DOG, "bbox": BOX}
    figures = figures_of(truth_of([A_CAT, a_dog]), HIT, name=name)
    shown = (figures.APf, figures.APc, figures.APr, figures.AP)
    assert shown == pytest.approx((1.0, 0.0, UNDEFINED, 0.5), abs=1e-12)
    assert {key: entry.objects for key, entry in figures.by_class.items()} == {"cat": 1, "dog": 1, "eel": 0}


@pytest.mark.parametrize("name", EVALUATORS)
def test_there_are_no_crowds_and_nothing_without_an_area(name: str) -> None:
    crowd = {**A_CAT, "iscrowd": 1}
    flat = {"image_id": 1, "category_id": CAT, "bbox": [60, 60, 0, 10]}
    rows = [[1, CAT, 0.9, [60, 60, 0, 10]], HIT]
    assert pytest.approx(1.0, abs=1e-12) == figures_of(truth_of([crowd, flat]), *rows, name=name).AP
    assert figures_of(truth_of([flat]), *rows, name=name).AP == UNDEFINED


@pytest.mark.parametrize("name", EVALUATORS)
def test_nothing_found_and_nothing_there(name: str) -> None:
    nothing = figures_of(truth_of([A_CAT]), name=name)
    assert (nothing.AP, nothing.AR, nothing.APf, nothing.APr) == (0, 0, 0, UNDEFINED)
    assert set(figures_of(truth_of([]), HIT, name=name).as_dict().values()) == {UNDEFINED}


def test_what_is_judged_and_nothing_changed() -> None:
    truth = truth_of([A_CAT], negative=[DOG], some=[CAT])
    results = results_of(HIT, [1, EEL, 0.9, BOX], [1, DOG, 0.8, BOX], [2, CAT, 0.7, BOX])
    before = repr((truth, results))
    _, kept, areas = judged(truth, results, results.areas(truth), limit=300)
    assert (kept.category_ids.tolist(), kept.image_ids.tolist()) == ([CAT, DOG], [1, 1])
    assert areas.tolist() == [np.inf, 1600]
    assert repr((truth, results)) == before


def test_unknown_ids_reach_the_user() -> None:
    with pytest.raises(UserError, match=r"1 of 1 detections name category ids that gt\.json does not have: 3"):
        figures_of(truth_of([A_CAT]), [1, 3, 0.5, BOX])
