from __future__ import annotations

from collections.abc import Callable

import torch

from codetr.data.augment.mixup import blend, mixup
from codetr.data.augment.objects import tight_boxes
from codetr.data.coco import Sample

Draw = Callable[..., Sample]

FIRST = ["AA..", "AA..", "....", "...."]


def test_blend_rounds() -> None:
    first, second = torch.tensor([0, 10, 255], dtype=torch.uint8), torch.tensor([255, 11, 255], dtype=torch.uint8)
    assert blend(first, second, 0.25).tolist() == [191, 11, 255]
    assert torch.equal(blend(first, second, 1.0), first) and torch.equal(blend(first, second, 0.0), second)


def test_objects_of_both(draw: Draw) -> None:
    result = mixup(draw(FIRST), draw(["....", "....", "..BB", "..BB"]), alpha=8.0)
    assert result.labels.tolist() == [0, 1]
    assert result.boxes.tolist() == [[0, 0, 2, 2], [2, 2, 4, 4]]
    assert result.masks is not None and result.masks.sum(dim=(1, 2)).tolist() == [4, 4]
    assert result.info == draw(FIRST).info


def test_weights_follow_beta(draw: Draw) -> None:
    white, black = draw(["...."] * 4, base=200), draw(["...."] * 4)
    torch.manual_seed(0)
    weights = torch.tensor([int(mixup(white, black, alpha=8.0).image[0, 0, 0]) for _ in range(500)]) / 200
    assert abs(weights.mean() - 0.5) < 0.03
    assert abs(weights.std() - 0.1213) < 0.015  # 1 / sqrt(4 * (2 * 8 + 1))


def test_a_smaller_one_has_any_place_and_grey_around_it(draw: Draw) -> None:
    torch.manual_seed(0)
    places = set()
    for _ in range(200):
        result = mixup(draw(FIRST, base=114), draw(["BB", "BB"], base=114), alpha=1e4)
        assert result.image.shape == (3, 4, 4) and result.labels.tolist() == [0, 1]
        assert result.masks is not None and torch.equal(tight_boxes(result.masks), result.boxes)
        places.add(tuple(result.boxes[1, :2].tolist()))
        assert result.image[0, 3, 3] == (115 if result.boxes[1].tolist() == [2, 2, 4, 4] else 114)
    assert places == {(x, y) for x in range(3) for y in range(3)}


def test_a_larger_one_is_cropped(draw: Draw) -> None:
    large = draw(["BBBB......"] * 4)
    torch.manual_seed(0)
    widths = {}
    for _ in range(200):
        result = mixup(draw(FIRST), large, alpha=8.0)
        assert result.masks is not None and torch.equal(tight_boxes(result.masks), result.boxes)
        widths[int(result.boxes[1, 2]) if len(result.labels) == 2 else 0] = True
    assert set(widths) == {0, 3, 4}  # what is cut to 2 px or less goes


def test_without_masks(draw: Draw) -> None:
    result = mixup(draw(FIRST, masks=False), draw(["BBB", "BBB"], masks=False), alpha=8.0)
    assert result.masks is None and len(result.labels) == 2
