from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from codetr.data.augment.mosaic import arrange, mosaic
from codetr.data.augment.objects import GREY, tight_boxes
from codetr.data.coco import Sample

Draw = Callable[..., Sample]
Show = Callable[[Sample], list[list[str]]]

FOUR = (["AAAA", "AAAA", "...."], ["B...", "....", "...."], ["CCCC"], ["...D", "...D", "...D", "...D"])


def _four(draw: Draw, *, masks: bool = True) -> list[Sample]:
    return [draw(drawing, base=10 * (index + 1), masks=masks) for index, drawing in enumerate(FOUR)]


def test_four_images_touch_at_the_centre(draw: Draw, drawn: Show) -> None:
    result = arrange(_four(draw), (3, 5), size=4, visible=0.1)
    assert result.image[0].tolist() == [
        [GREY, 11, 11, 11, 11, 22, 20, 20],
        [GREY, 11, 11, 11, 11, 20, 20, 20],
        [GREY, 10, 10, 10, 10, 20, 20, 20],
        [GREY, 33, 33, 33, 33, 40, 40, 40],
        [GREY, GREY, GREY, GREY, GREY, 40, 40, 40],
        [GREY, GREY, GREY, GREY, GREY, 40, 40, 40],
        [GREY, GREY, GREY, GREY, GREY, 40, 40, 40],
        [GREY, GREY, GREY, GREY, GREY, GREY, GREY, GREY],
    ]
    assert result.labels.tolist() == [0, 1, 2]  # D is outside
    assert result.boxes.tolist() == [[1, 0, 5, 2], [5, 0, 6, 1], [1, 3, 5, 4]]
    assert drawn(result)[0] == [".####...", ".####...", *["........"] * 6]
    assert drawn(result)[1] == [".....#..", *["........"] * 7]


def test_without_masks(draw: Draw) -> None:
    result = arrange(_four(draw, masks=False), (3, 5), size=4, visible=0.1)
    assert result.masks is None
    assert result.boxes.tolist() == [[1, 0, 5, 2], [5, 0, 6, 1], [1, 3, 5, 4]]


def test_images_are_resized_to_fit(draw: Draw) -> None:
    result = arrange(_four(draw), (8, 8), size=8, visible=0.1)
    assert result.image.shape == (3, 16, 16)
    assert result.boxes.tolist() == [[0, 2, 8, 6], [8, 2, 10, 4], [0, 8, 8, 10], [14, 8, 16, 16]]


def test_what_crosses_the_border_is_cut(draw: Draw) -> None:
    wide = draw(["AAAAAAAA"] * 8)
    none = draw(["........"] * 8)
    result = arrange([wide, none, none, none], (4, 5), size=8, visible=0.1)
    assert result.boxes.tolist() == [[0, 0, 5, 4]]
    assert len(arrange([wide, none, none, none], (4, 5), size=8, visible=0.32).labels) == 0  # 20 of 64 px are left


def test_crowd_regions_of_all_four(draw: Draw) -> None:
    four = [replace(sample, ignore_boxes=torch.tensor([[0.0, 0, 1, 1]])) for sample in _four(draw)]
    result = arrange(four, (4, 4), size=4, visible=0.1)
    assert result.ignore_boxes.tolist() == [[0, 1, 1, 2], [4, 1, 5, 2], [0, 4, 1, 5], [4, 4, 5, 5]]


def test_centres_and_invariants(draw: Draw) -> None:
    four = _four(draw)
    torch.manual_seed(0)
    corners = set()
    for _ in range(150):
        result = mosaic(four, size=4, visible=0.0)
        assert result.masks is not None and result.image.shape == (3, 8, 8)
        assert torch.equal(result.boxes, tight_boxes(result.masks))
        if 2 in result.labels:  # cut to 2 px of a side it goes
            assert torch.equal(result.image[0] == 33, result.masks[result.labels == 2][0])
        corners.add(tuple(torch.nonzero(result.image[0] // 10 == 2)[:, 1].unique()[:1].tolist()))
    assert corners == {(2,), (3,), (4,), (5,), (6,)}
