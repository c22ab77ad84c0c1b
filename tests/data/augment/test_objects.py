from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import interpolate

from codetr.data.augment.objects import blank_masks, cut, lay, resize_masks, take, tight_boxes
from codetr.data.coco import Sample

Draw = Callable[..., Sample]
Show = Callable[[Sample], list[list[str]]]

SCENE = [
    "AAA...",
    "AAA...",
    "......",
    "....BB",
    "....BB",
]


def test_tight_boxes() -> None:
    masks = torch.zeros(3, 5, 7, dtype=torch.bool)
    masks[0, 1:3, 2:6] = True
    masks[2, 4, 6] = masks[2, 0, 0] = True
    assert tight_boxes(masks).tolist() == [[2, 1, 6, 3], [0, 0, 0, 0], [0, 0, 7, 5]]
    assert tight_boxes(masks[:, 1:4, 3:5]).tolist() == [[0, 0, 2, 2], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert tight_boxes(masks[:0]).shape == (0, 4)
    assert tight_boxes(torch.zeros(2, 0, 4, dtype=torch.bool)).tolist() == [[0, 0, 0, 0]] * 2


@pytest.mark.parametrize("size", [(5, 6), (10, 12), (17, 9), (3, 4), (1, 1), (40, 7)])
def test_masks_are_resized_as_torch_does_to_nearest_centres(size: tuple[int, int]) -> None:
    masks = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(1)) > 0.6
    masks[3] = False
    expected = interpolate(masks[None].byte(), size=size, mode="nearest-exact")[0].bool()
    assert torch.equal(resize_masks(masks, size, blank_masks(4, size)), expected)
    window = torch.zeros(4, size[0] - size[0] // 3, size[1] - size[1] // 4, dtype=torch.bool)
    corner = (size[0] // 3, size[1] // 4)
    assert torch.equal(resize_masks(masks, size, window, corner), expected[:, corner[0] :, corner[1] :])


def test_take(draw: Draw) -> None:
    sample = draw(SCENE)
    only = take(sample, torch.tensor([False, True]))
    assert only.labels.tolist() == [1] and only.boxes.tolist() == [[4, 3, 6, 5]]
    assert only.masks is not None and only.masks.shape == (1, 5, 6)


def test_cut_and_lay(draw: Draw, drawn: Show) -> None:
    sample = replace(draw(SCENE, base=10), ignore_boxes=torch.tensor([[0.0, 0, 6, 5], [0, 0, 1, 1]]))
    seen = cut(sample, (6, 6), (-1, -1))
    assert seen.image[0].tolist() == [
        [11, 11, 10, 10, 10],
        [10, 10, 10, 10, 10],
        [10, 10, 10, 12, 12],
        [10, 10, 10, 12, 12],
    ]
    assert seen.labels.tolist() == [1]  # of A 2 x 1 px are left
    assert seen.boxes.tolist() == [[3, 2, 5, 4]]
    assert seen.ignore_boxes.tolist() == [[0, 0, 5, 4]]
    laid = lay([seen], [(0, 0)], (6, 6))
    assert laid.image[1].tolist() == [
        [11, 11, 10, 10, 10, 114],
        [10, 10, 10, 10, 10, 114],
        [10, 10, 10, 12, 12, 114],
        [10, 10, 10, 12, 12, 114],
        [114, 114, 114, 114, 114, 114],
        [114, 114, 114, 114, 114, 114],
    ]
    assert drawn(laid) == [["......", "......", "...##.", "...##.", "......", "......"]]


def test_laid_down_and_to_the_right(draw: Draw, drawn: Show) -> None:
    laid = lay([draw(SCENE), draw(["C"])], [(1, 2), (5, 0)], (6, 8))
    assert laid.labels.tolist() == [0, 1, 2]
    assert laid.boxes.tolist() == [[2, 1, 5, 3], [6, 4, 8, 6], [0, 5, 1, 6]]
    assert drawn(laid)[1] == ["........"] * 4 + ["......##"] * 2
    assert drawn(laid)[2] == ["........"] * 5 + ["#......."]


L_SHAPE = [
    "AAAAAA....",
    "AAAAAA....",
    "AAAAAA....",
    "AAA.......",
    "AAA.......",
    "AAA.......",
]


def test_a_cut_object_has_the_box_of_the_rest_of_its_mask(draw: Draw) -> None:
    assert cut(draw(L_SHAPE), (10, 10), (-3, 0)).boxes.tolist() == [[0, 0, 3, 3]]
    assert cut(draw(L_SHAPE, masks=False), (10, 10), (-3, 0)).boxes.tolist() == [[0, 0, 6, 3]]


def test_a_box_that_is_not_cut_keeps_its_fractions(draw: Draw) -> None:
    sample = replace(draw(SCENE), boxes=torch.tensor([[0.25, 0.25, 2.75, 1.75], [4, 3, 6, 5]]))
    seen = cut(sample, (9, 9), (2, 3))
    assert seen.boxes.tolist() == sample.boxes.tolist()
    assert lay([seen], [(2, 3)], (9, 9)).boxes.tolist() == [[3.25, 2.25, 5.75, 3.75], [7, 5, 9, 7]]


@pytest.mark.parametrize(("visible", "kept"), [(0.49, 1), (0.5, 0)])
def test_a_cut_object_goes_if_little_of_its_box_is_left(draw: Draw, visible: float, kept: int) -> None:
    for masks in (True, False):
        assert len(cut(draw(L_SHAPE, masks=masks), (3, 10), (0, 0), visible=visible).labels) == kept


def test_a_cut_object_of_two_pixels_goes(draw: Draw) -> None:
    assert len(cut(draw(L_SHAPE), (6, 2), (0, 0)).labels) == 0
    assert len(cut(draw(L_SHAPE), (6, 3), (0, 0)).labels) == 1
    assert len(cut(draw(["AA"]), (6, 3), (0, 0)).labels) == 1  # small, but not cut
