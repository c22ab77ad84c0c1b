from __future__ import annotations

import numpy as np
import pytest

from codetr.data.box_order import form_of, relative_boxes

SIZE = (100, 200)
CORNERS = [[20 * i, 10 * i, 20 * i + 60, 10 * i + 30] for i in range(1, 8)]


def test_corners_are_told_from_sizes() -> None:
    assert form_of(CORNERS, [SIZE] * 7) == "corners"
    sizes = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in CORNERS]
    assert form_of(sizes, [SIZE] * 7) == "coco"


def test_too_few_boxes_prove_nothing() -> None:
    assert form_of(CORNERS[-4:], [SIZE] * 4) == "coco"
    assert form_of(CORNERS[-5:], [SIZE] * 5) == "corners"
    assert form_of([], []) == "coco"


def test_one_box_that_cannot_be_corners_refutes_them() -> None:
    assert form_of([*CORNERS, [50, 50, 10, 10]], [SIZE] * 8) == "coco"
    assert form_of([*CORNERS, [50, 50, 210, 60]], [SIZE] * 8) == "coco"  # out of the image


def test_boxes_that_stay_in_their_images_are_as_they_say() -> None:
    assert form_of([[10, 10, 60, 40]] * 9, [SIZE] * 9) == "coco"


def test_areas_that_fit_the_last_two_numbers_refute_corners() -> None:
    assert form_of(CORNERS, [SIZE] * 7, [x2 * y2 for _, _, x2, y2 in CORNERS]) == "coco"
    assert form_of(CORNERS, [SIZE] * 7, [60 * 30] * 7) == "corners"
    assert form_of(CORNERS, [SIZE] * 7, [None, "1800", *[0] * 5]) == "corners"


@pytest.mark.parametrize("seed", range(20))
def test_real_boxes_with_some_across_the_border_are_coco(seed: int) -> None:
    draw = np.random.default_rng(seed)
    boxes = np.stack([draw.uniform(0, 190, 40), draw.uniform(0, 95, 40), *draw.uniform(5, 90, (2, 40))], axis=1)
    assert form_of(boxes, [SIZE] * 40) == "coco"


def test_shares_of_the_image() -> None:
    assert form_of([[0.1, 0.2, 0.3, 0.4]], [SIZE]) == "relative"
    assert form_of([[0.1, 0.2, 0.3, 1.4]], [SIZE]) == "coco"
    assert form_of([[0, 0, 1, 1]], [SIZE]) == "coco"  # a pixel
    assert form_of([[0, 0, 0.5, 1]], [(1, 1)]) == "coco"
    assert relative_boxes([[0.1, 0.2, 0.9, 0.8]]) == "corner and size"
    assert relative_boxes([[0.9, 0.2, 0.2, 0.4]]) == "centre and size"
    assert relative_boxes([[0.9, 0.2, 0.2, 0.4], [0.0, 0.5, 0.4, 0.4]]) is None
