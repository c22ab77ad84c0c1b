from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from codetr.evaluation.figures import (
    UNDEFINED,
    ClassFigures,
    CocoFigures,
    Curves,
    Figures,
    LvisFigures,
    coco_figures,
    lvis_figures,
)


def constant_curves(*, classes: int = 2) -> Curves:
    return Curves(np.full((10, 101, classes, 4, 3), 0.5), np.full((10, classes, 4, 3), 0.25))


def test_names_are_the_published_ones() -> None:
    coco = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    assert tuple(coco_figures(constant_curves(), ("a", "b")).as_dict()) == coco
    lvis = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR@300", "ARs@300", "ARm@300", "ARl@300")
    assert tuple(lvis_of(constant_curves()).as_dict()) == lvis


def lvis_of(curves: Curves, **settings: int | None) -> LvisFigures:
    return lvis_figures(curves, ("a", "b"), frequencies=("f", "c"), objects=(3, 5), **settings)


def test_each_figure_reads_its_own_slice() -> None:
    curves = constant_curves()
    curves.precision[0, :, :, 0, 2] = 0.9  # IoU 0.50
    curves.precision[5, :, :, 0, 2] = 0.7  # IoU 0.75
    for area, value in ((1, 0.1), (2, 0.2), (3, 0.3)):
        curves.precision[..., area, 2] = value
        curves.recall[..., area, 2] = value + 0.5
    for limit, value in ((0, 0.01), (1, 0.02), (2, 0.03)):
        curves.recall[..., 0, limit] = value
    expected = {"AP": 0.56, "AP50": 0.9, "AP75": 0.7, "APs": 0.1, "APm": 0.2, "APl": 0.3}  # (8 x 0.5 + 0.9 + 0.7) / 10
    expected |= {"AR1": 0.01, "AR10": 0.02, "AR100": 0.03, "ARs": 0.6, "ARm": 0.7, "ARl": 0.8}
    assert coco_figures(curves, ("a", "b")).as_dict() == pytest.approx(expected, abs=1e-12)


def test_classes_without_objects_are_left_out_of_the_mean() -> None:
    curves = constant_curves()
    curves.precision[:, :, 1] = UNDEFINED
    curves.recall[:, 1] = UNDEFINED
    figures = coco_figures(curves, ("a", "b"))
    assert figures.AP == 0.5
    assert figures.AR100 == 0.25
    assert figures.per_class == {"a": 0.5, "b": UNDEFINED}


def test_another_limit_renames_the_recall() -> None:
    figures: CocoFigures = coco_figures(constant_curves(), ("a", "b"), max_detections=300)
    assert figures.as_dict()["AR"] == figures.AR100 == 0.25
    assert "AR100" not in figures.as_dict()


@pytest.mark.parametrize(("limit", "name"), [(300, "AR@300"), (1000, "AR@1000"), (None, "AR@300")])
def test_recall_of_lvis_says_its_limit(limit: int | None, name: str) -> None:
    assert lvis_of(constant_curves(), max_detections=limit).as_dict()[name] == 0.25


def test_groups_are_classes_of_one_frequency() -> None:
    curves = constant_curves()
    curves.precision[:, :, 1] = 0.1
    figures = lvis_of(curves)
    assert (figures.APf, figures.APc, figures.APr) == pytest.approx((0.5, 0.1, UNDEFINED), abs=1e-12)


def test_each_figure_of_a_class_reads_its_own_slice() -> None:
    curves = constant_curves()
    curves.precision[0, :, 1, 0, 2] = 0.9
    for area, value in ((1, 0.1), (2, 0.2), (3, UNDEFINED)):
        curves.precision[:, :, 1, area, 2] = value
    curves.recall[:, 1, 0, 2] = 0.75
    found = coco_figures(curves, ("a", "b"), objects=(3, 5)).by_class
    assert found["a"] == ClassFigures(0.5, 0.5, 0.5, 0.5, 0.5, 0.25, objects=3)
    expected = {"AP": 0.54, "AP50": 0.9, "APs": 0.1, "APm": 0.2, "APl": UNDEFINED, "AR": 0.75, "objects": 5}
    assert asdict(found["b"]) == pytest.approx(expected, abs=1e-12)  # (9 x 0.5 + 0.9) / 10


@pytest.mark.parametrize(
    "figures",
    [coco_figures(constant_curves(), ("a", "b"), objects=(3, 5), max_detections=7), lvis_of(constant_curves())],
)
def test_figures_survive_as_numbers(figures: Figures) -> None:
    numbers = figures.numbers()
    assert len(numbers) == figures.count_numbers(2)
    kind = type(figures)
    restored = kind.from_numbers(numbers, ("a", "b"), max_detections=figures.max_detections)
    assert restored == figures
    assert repr(restored.by_class) == repr(figures.by_class)  # numbers of objects are whole
    bare = coco_figures(constant_curves(), ())
    assert CocoFigures.from_numbers(bare.numbers(), (), max_detections=100) == bare
