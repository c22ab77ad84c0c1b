from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from codetr.data.augment.geometry import LargeScaleJitter, fitted, resize_image
from codetr.data.augment.objects import GREY, tight_boxes
from codetr.data.augment.view import View
from codetr.data.coco import Sample

Draw = Callable[..., Sample]
Show = Callable[[Sample], list[list[str]]]


class At(LargeScaleJitter):
    """Large-scale jitter with a given factor and corner."""

    def __init__(self, size: int, factor: float, corner: tuple[int, int] = (0, 0)) -> None:
        super().__init__(size, factor, factor)
        self.corner = corner

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {**super().make_params(flat_inputs), "corner": self.corner}


def _view(transform: v2.Transform) -> View:
    return View(transform, least=0.01, tight=True)


SCENE = [
    "AA..",
    "AA.B",
    "...B",
]


def test_a_smaller_image_is_padded_with_grey(draw: Draw, drawn: Show) -> None:
    result = _view(At(8, 0.5))(draw(SCENE))  # 4 x 4, so the image is unchanged
    assert result.image[2].tolist() == [
        [1, 1, 0, 0, GREY, GREY, GREY, GREY],
        [1, 1, 0, 2, GREY, GREY, GREY, GREY],
        [0, 0, 0, 2, GREY, GREY, GREY, GREY],
        *[[GREY] * 8] * 5,
    ]
    assert drawn(result)[1] == ["........", "...#....", "...#....", *["........"] * 5]
    assert result.boxes.tolist() == [[0, 0, 2, 2], [3, 1, 4, 3]]


def test_a_larger_image_is_cropped(draw: Draw, drawn: Show) -> None:
    result = _view(At(4, 2.0, corner=(1, 3)))(draw(SCENE))  # 6 x 8, of which rows 1 to 4 and columns 3 to 6 are seen
    assert result.image.shape == (3, 4, 4)
    assert drawn(result) == [["#...", "#...", "#...", "...."], ["....", "...#", "...#", "...#"]]
    assert result.boxes.tolist() == [[0, 0, 1, 3], [3, 1, 4, 4]]
    assert result.labels.tolist() == [0, 1]


def test_an_object_outside_of_the_crop_goes(draw: Draw) -> None:
    result = _view(At(4, 2.0, corner=(0, 0)))(draw(SCENE))
    assert result.labels.tolist() == [0]
    assert result.masks is not None and result.masks.shape == (1, 4, 4)


def test_boxes_are_those_of_the_masks_or_clipped(draw: Draw) -> None:
    sample = replace(draw(SCENE), boxes=torch.tensor([[0.0, 0, 2, 3], [2, 1, 4, 3]]))
    assert _view(At(8, 0.5))(sample).boxes.tolist() == [[0, 0, 2, 2], [3, 1, 4, 3]]
    alone = replace(sample, masks=None)
    assert _view(At(8, 0.5))(alone).boxes.tolist() == [[0, 0, 2, 3], [2, 1, 4, 3]]
    assert _view(At(4, 2.0, corner=(2, 1)))(alone).boxes.tolist() == [[0, 0, 3, 4], [3, 0, 4, 4]]


def test_boxes_below_a_hundredth_of_a_pixel_go(draw: Draw) -> None:
    boxes = torch.tensor([[0.0, 0, 0.01, 2], [0, 0, 0.02, 2]])
    sample = replace(draw(SCENE, masks=False), boxes=boxes)
    assert _view(At(8, 0.5))(sample).boxes.tolist() == boxes[1:].tolist()


def test_crowd_regions_are_cropped(draw: Draw) -> None:
    sample = replace(draw(SCENE), ignore_boxes=torch.tensor([[0.0, 0, 4, 3], [0, 0, 1, 1]]))
    assert _view(At(4, 2.0, corner=(2, 3)))(sample).ignore_boxes.tolist() == [[0, 0, 4, 4]]


def test_it_is_drawn_again_while_all_objects_are_lost(draw: Draw) -> None:
    class Corners(At):
        def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
            self.corner = next(self.corners)
            return super().make_params(flat_inputs)

    jitter = Corners(2, 2.0)
    jitter.corners = iter([(0, 0), (0, 0), (1, 2), (1, 3)])
    view = View(jitter, tight=True, attempts=3)
    assert view(draw(["....", "...B", "...B"])).labels.tolist() == [1]
    assert list(jitter.corners) == [(1, 3)]
    jitter.corners = iter([(0, 0)] * 4)
    assert view(draw(["....", "...B", "...B"])).labels.tolist() == []
    assert len(list(jitter.corners)) == 1
    jitter.corners = iter([(0, 0)] * 4)
    view(draw(["....", "....", "...."]))  # there was nothing to lose
    assert len(list(jitter.corners)) == 3


Corner = tuple[int, int]


def _params(size: tuple[int, int], count: int, **settings: float) -> list[dict[str, Any]]:
    jitter = LargeScaleJitter(**{"size": 100, "low": 0.1, "high": 2.0, **settings})
    torch.manual_seed(0)
    return [jitter.make_params([F.to_image(torch.zeros(3, *size))]) for _ in range(count)]


def test_factors_are_uniform() -> None:
    longest = torch.tensor([params["size"][1] for params in _params((50, 80), 2000)]) / 100
    assert 0.1 <= longest.min() < 0.12 and 1.98 < longest.max() <= 2.0
    counts = torch.histc(longest, bins=10, min=0.1, max=2.0)
    assert counts.min() > 150 and counts.max() < 250  # 200 expected, deviation 13


def test_aspect_and_corners() -> None:
    found = _params((50, 80), 1000)
    for params in found:
        height, width = params["size"]
        assert abs(height - width * 50 / 80) <= 1
        assert all(
            0 <= corner <= max(0, side - 100) for corner, side in zip(params["corner"], (height, width), strict=True)
        )
    ends = [params["corner"][1] / (params["size"][1] - 100) for params in found if params["size"][1] > 110]
    assert min(ends) == 0 and max(ends) == 1
    assert 0.45 < sum(ends) / len(ends) < 0.55  # some 470 draws, deviation 0.013


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [((480, 640), 1024, (768, 1024)), ((640, 480), 102.4, (102, 77)), ((1, 1000), 10, (1, 10))],
)
def test_fitted(size: tuple[int, int], longest: float, expected: tuple[int, int]) -> None:
    assert fitted(size, longest) == expected


@pytest.mark.parametrize("size", [(30, 45), (120, 200), (7, 300)])
def test_interleaved_pixels_are_resized_to_the_same_values(size: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, 60, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize_image(image, size), F.resize(image, list(size), antialias=True))


def test_pixels_masks_and_boxes_move_together() -> None:
    mask = torch.zeros(1, 60, 90, dtype=torch.bool)
    mask[0, 20:40, 30:70] = True
    image = (mask * 255).byte().expand(3, -1, -1).contiguous()
    sample = Sample(image, tight_boxes(mask), torch.tensor([1]), torch.zeros(0, 4), mask, None)  # type: ignore[arg-type]
    for with_masks in (True, False):
        view = _view(LargeScaleJitter(80, 0.3, 2.0))
        seen = 0
        for seed in range(40):
            torch.manual_seed(seed)
            result = view(sample if with_masks else replace(sample, masks=None))
            if len(result.labels):
                seen += 1
                found = tight_boxes((result.image[:1] > 127) & (result.image[:1] != GREY))
                # Half of a value is met within a pixel of where the edge lies.
                torch.testing.assert_close(result.boxes, found, rtol=0, atol=1.0)
        assert seen > 30
