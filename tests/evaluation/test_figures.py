from __future__ import annotations

import numpy as np
import pytest

from codetr.evaluation.figures import FIGURE_NAMES, UNDEFINED, CocoFigures, Curves, coco_figures


def constant_curves(*, classes: int = 2) -> Curves:
    return Curves(np.full((10, 101, classes, 4, 3), 0.5), np.full((10, classes, 4, 3), 0.25))


def test_names_are_the_published_ones() -> None:
    assert FIGURE_NAMES == ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


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
