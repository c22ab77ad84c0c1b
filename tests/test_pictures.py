from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from codetr.data.sheet import class_colour
from codetr.pictures import draw_detections
from codetr.structures import Detections

GREY = (90, 90, 90)


def detections(*rows: tuple[list[float], float, int], masks: torch.Tensor | None = None) -> Detections:
    boxes = torch.tensor([row[0] for row in rows]).reshape(-1, 4)
    return Detections(
        boxes, torch.tensor([r[1] for r in rows]), torch.tensor([r[2] for r in rows], dtype=torch.long), masks
    )


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def is_colour(image: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    return (pixels(image) == colour).all(axis=2)


def test_no_detection_above_the_score_leaves_the_image_as_it_is() -> None:
    image = Image.new("RGB", (640, 480), GREY)
    drawn = draw_detections(image, detections(([10, 10, 90, 90], 0.29, 0)), ["cat"])
    assert drawn is not image and (pixels(drawn) == GREY).all()
    assert not (pixels(draw_detections(image, detections(([10, 10, 90, 90], 0.3, 0)), ["cat"])) == GREY).all()
    assert (pixels(image) == GREY).all()


def test_outer_edge_of_the_outline_is_the_box() -> None:
    image = Image.new("RGB", (640, 480), GREY)
    drawn = draw_detections(image, detections(([100.0, 200.0, 300.0, 280.0], 0.9, 2)), ["a", "b", "c"])
    rows, columns = np.nonzero(is_colour(drawn, class_colour(2)))
    assert (columns.min(), columns.max(), rows.max()) == (100, 299, 279)
    middle = is_colour(drawn, class_colour(2))[:, 290]  # right of the label
    assert np.flatnonzero(middle)[0] == 200


def test_small_image_is_enlarged_by_a_whole_factor() -> None:
    drawn = draw_detections(Image.new("L", (100, 60), 90), detections(([20.0, 20.0, 80.0, 50.0], 0.9, 0)), ["cat"])
    assert drawn.size == (500, 300) and drawn.mode == "RGB"
    _, columns = np.nonzero(is_colour(drawn, class_colour(0)))
    assert (columns.min(), columns.max()) == (100, 399)


@pytest.mark.parametrize(
    "box",
    [[0, 0, 640, 480], [-20, -9, 5, 4], [630, 470, 700, 500], [0, 0, 0, 0], [640, 480, 640, 480], [5, 0, 9, 480]],
)
def test_boxes_at_and_beyond_the_border_are_drawn_with_their_labels(box: list[float]) -> None:
    image = Image.new("RGB", (640, 480), GREY)
    drawn = draw_detections(image, detections((box, 0.5, 0)), ["a rather long class name"])
    label = (pixels(drawn) != GREY).any(axis=2).sum()
    assert drawn.size == (640, 480) and label > 1500  # the label alone covers over 100 x 15 pixels


def test_mask_is_blended_where_it_is_true() -> None:
    masks = torch.zeros(1, 480, 640, dtype=torch.bool)
    masks[0, 200:300, 100:200] = True
    image = Image.new("RGB", (640, 480), GREY)
    drawn = pixels(draw_detections(image, detections(([100, 200, 300, 400], 0.9, 1), masks=masks), ["a", "b"]))
    expected = [90 + 0.45 * (value - 90) for value in class_colour(1)]
    np.testing.assert_allclose(drawn[250, 150], expected, atol=1)  # rounding to whole numbers
    assert tuple(drawn[350, 250]) == GREY
    assert tuple(drawn[250, 199]) == class_colour(1)  # the mask's own rim


def test_the_best_detection_lies_on_top() -> None:
    image = Image.new("RGB", (640, 480), GREY)
    same = [100.0, 200.0, 300.0, 400.0]
    drawn = draw_detections(image, detections((same, 0.9, 0), (same, 0.8, 1)), ["a", "b"])
    assert tuple(pixels(drawn)[300, 100]) == class_colour(0)


def test_targets_stand_on_the_left_without_scores() -> None:
    image = Image.new("RGB", (640, 480), GREY)
    truth = detections(([100, 200, 300, 400], 0.0, 0))
    pair = draw_detections(image, detections(), ["cat"], targets=truth)
    assert pair.width == 2 * 640 + 6 and pair.height > 480
    columns = np.nonzero(is_colour(pair, class_colour(0)))[1]
    assert columns.size and columns.max() < 640


def test_real_photograph(shared: Path) -> None:
    with Image.open(shared / "data" / "photos" / "chelsea.png") as photo:
        drawn = draw_detections(photo, detections(([110, 20, 400, 290], 0.97, 15)), [f"class {k}" for k in range(80)])
        assert photo.size == (451, 300)
    assert drawn.size == (902, 600)
    assert is_colour(drawn, class_colour(15)).sum() > 2 * (580 + 540)  # an outline 2 pixels wide or more, and a label
