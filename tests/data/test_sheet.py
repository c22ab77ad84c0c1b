from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from codetr.data.sheet import _chip_place, _overlap, class_colour, contact_sheet, draw_objects


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def is_colour(image: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    return (pixels(image) == colour).all(axis=2)


def test_each_class_has_one_colour_and_the_nearest_21_differ() -> None:
    assert len({class_colour(label) for label in range(21)}) == 21
    assert class_colour(3) == class_colour(24)


def test_label_stays_in_the_picture_and_off_other_labels() -> None:
    size = (200, 100)
    corner = _chip_place((150, 0, 199, 40), (80, 15), size, [])
    assert corner[0] >= 0 and corner[1] >= 0 and corner[2] < 200 and corner[3] < 100
    free = _chip_place((50, 50, 120, 90), (60, 15), size, [])
    assert free == (50, 35, 109, 49)  # directly above the box
    assert _chip_place((50, 50, 120, 90), (60, 15), size, [(45, 30, 110, 49)])[1] > 49
    crowded: list[tuple[int, int, int, int]] = []
    for _ in range(4):
        crowded.append(_chip_place((50, 50, 120, 90), (60, 12), size, crowded))
    assert all(_overlap(a, b) == 0 for i, a in enumerate(crowded) for b in crowded[i + 1 :])


def test_overlap() -> None:
    assert _overlap((0, 0, 9, 9), (5, 8, 20, 20)) == 5 * 2
    assert _overlap((0, 0, 9, 9), (10, 0, 20, 9)) == 0


def test_contact_sheet_holds_every_image_in_order() -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    sheet = contact_sheet([Image.new("RGB", (100, 50), colour) for colour in colours], columns=2)
    assert sheet.size == (2 * 102 + 2, 2 * 52 + 2)
    for colour, (left, top) in zip(colours, [(2, 2), (104, 2), (2, 54)], strict=True):
        rows, columns = np.nonzero(is_colour(sheet, colour))
        assert (columns.min(), rows.min(), columns.max(), rows.max()) == (left, top, left + 99, top + 49)


def test_contact_sheet_shrinks_and_centres() -> None:
    wide, tall = Image.new("RGB", (400, 200), (200, 0, 0)), Image.new("RGB", (50, 100), (0, 200, 0))
    sheet = contact_sheet([wide, tall], columns=5, cell=100)
    assert wide.size == (400, 200)
    assert sheet.size == (2 * 102 + 2, 104)
    assert is_colour(sheet, (200, 0, 0)).sum() == 100 * 50
    assert np.nonzero(is_colour(sheet, (0, 200, 0)))[1].min() == 104 + 25
    with pytest.raises(ValueError, match="0 pictures"):
        contact_sheet([], columns=3)


def test_captions_stand_below_their_pictures_and_are_shortened() -> None:
    picture = Image.new("RGB", (200, 100), (200, 0, 0))
    sheet = contact_sheet([picture, picture], ["short", "long " * 40])
    bare = contact_sheet([picture, picture])
    assert sheet.height > bare.height and sheet.width == bare.width
    letters = (pixels(sheet).min(axis=2) > 150).nonzero()
    assert letters[0].min() > 100  # below the first picture
    assert letters[1].min() > 2 and letters[1].max() < sheet.width - 2
    with pytest.raises(ValueError, match="1 captions for 2 pictures"):
        contact_sheet([picture, picture], ["one"])


def test_objects_of_a_crowd_are_grey_and_texts_may_be_any() -> None:
    image = Image.new("RGB", (640, 480), (90, 90, 90))
    boxes = [[10, 100, 110, 200], [200, 100, 300, 200]]
    drawn = draw_objects(image, boxes, [0, 0], ["\u732b\n", ""], crowd=[True, False])
    assert is_colour(drawn, (150, 150, 150))[150, 10] and not is_colour(drawn, (150, 150, 150))[:, 200:].any()
    assert is_colour(drawn, class_colour(0))[150, 200]
    assert (pixels(draw_objects(image, [], [], [])) == 90).all()
