"""RoIAlign over levels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from codetr.ops.roi import multilevel_roi_align, roi_levels


@pytest.mark.parametrize(
    ("side", "level"), [(0, 0), (50, 0), (111, 0), (223, 0), (224, 1), (447, 1), (448, 2), (896, 3), (5000, 3)]
)
def test_levels_for_strides_8_to_64(side: float, level: int) -> None:
    box = torch.tensor([[0.0, 0.0, side, side]])
    assert roi_levels(box, num_levels=4, finest_scale=112).tolist() == [level]


def pyramid() -> tuple[list[Tensor], tuple[int, int]]:
    return [torch.randn(2, 3, 16, 20, requires_grad=True), torch.randn(2, 3, 8, 10, requires_grad=True)], (8, 16)


BOXES = torch.tensor([[[10.0, 12, 50, 60], [0, 0, 150, 120]], [[90, 5, 130, 45], [3, 3, 3, 3]]])


def test_each_region_equals_roi_align_on_its_level() -> None:
    maps, strides = pyramid()
    pooled = multilevel_roi_align(maps, strides, BOXES, output_size=4, finest_scale=50)
    assert pooled.shape == (2, 2, 3, 4, 4)
    for image, region, level in ((0, 0, 0), (0, 1, 1), (1, 0, 0)):
        rows = [BOXES[image, region].unsqueeze(0)]
        expected = roi_align(
            maps[level][image : image + 1], rows, 4, 1 / strides[level], sampling_ratio=-1, aligned=True
        )
        torch.testing.assert_close(pooled[image, region], expected[0])
    assert not pooled[1, 1].any()


def test_a_linear_ramp_gives_the_centres_of_the_bins() -> None:
    ramp = torch.arange(20.0).expand(1, 1, 16, 20)  # cell i has its centre at pixel 8 * i + 4
    box = torch.tensor([[[16.0, 16.0, 80.0, 80.0]]])
    pooled = multilevel_roi_align([ramp], (8,), box, output_size=2, finest_scale=1000)
    torch.testing.assert_close(pooled[0, 0, 0], torch.tensor([[3.5, 7.5], [3.5, 7.5]]))  # pixels 32 and 64


def test_gradient_reaches_the_region_s_level_only() -> None:
    maps, strides = pyramid()
    multilevel_roi_align(maps, strides, BOXES[:, :1], output_size=4, finest_scale=50).sum().backward()
    assert maps[0].grad is not None and maps[0].grad.any()
    assert maps[1].grad is not None and not maps[1].grad.any()


def test_half_precision_maps_keep_the_place_of_regions() -> None:
    maps, strides = pyramid()
    exact = multilevel_roi_align([m.bfloat16().float() for m in maps], strides, BOXES, output_size=4, finest_scale=50)
    half = multilevel_roi_align([m.bfloat16() for m in maps], strides, BOXES, output_size=4, finest_scale=50)
    assert half.dtype == torch.float32
    assert torch.equal(half, exact)
