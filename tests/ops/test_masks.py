"""Masks: crops of pixels, targets of regions, pixels of crops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes
from torchvision.ops import roi_align

from codetr.ops.masks import _pasted, crop_masks, mask_targets, paste_masks, portions


def disc(height: int, width: int, *, centre: tuple[float, float], radius: float) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def targets_of(masks: Tensor, boxes: Tensor, regions: Tensor, *, size: int = 28) -> Tensor:
    """One region for each object."""
    return mask_targets(crop_masks(masks, boxes), boxes, torch.arange(len(boxes)), regions, size=size)


def targets_of_pixels(masks: Tensor, regions: Tensor, size: int) -> Tensor:
    """torchvision's targets, made of all pixels: its pixel centres lie at 0, and there is no threshold."""
    index = torch.arange(len(masks))
    return (project_masks_on_boxes(masks.float(), regions - 0.5, index, size) >= 0.5).float()


def test_a_crop_holds_the_share_of_the_object_in_each_cell() -> None:
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 2:4, 1:5] = True
    mask[0, 4:6, 1:3] = True
    crop = crop_masks(mask, torch.tensor([[1.0, 2, 5, 6]]), side=2)
    assert crop.dtype == torch.uint8 and crop.tolist() == [[[255, 255], [255, 0]]]
    assert crop_masks(mask, torch.tensor([[1.0, 2, 5, 6]]), side=1).tolist() == [[[191]]]  # 3 of 4 quarters of 255


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_a_crop_is_roi_align(scale: float) -> None:
    torch.manual_seed(0)
    masks = torch.rand(6, 90, 120) > 0.5
    corner = torch.rand(6, 2) * torch.tensor([60.0, 40.0])
    boxes = torch.cat([corner, (corner + 3 + torch.rand(6, 2) * 12 * scale * 4).clamp(max=90.0)], 1)
    boxes[0] = torch.tensor([0.0, 0.0, 120.0, 90.0])
    regions = torch.cat([torch.arange(6.0)[:, None], boxes], 1)
    expected = roi_align(masks[:, None].float(), regions, 112, 1.0, sampling_ratio=0, aligned=True)[:, 0]
    # Rounded to a level of 255.
    torch.testing.assert_close(crop_masks(masks, boxes).float() / 255, expected, rtol=0, atol=0.51 / 255)


def test_the_target_of_a_box_that_its_object_covers_by_half() -> None:
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[0, 4:12, 4:8] = True
    box = torch.tensor([[4.0, 4.0, 12.0, 12.0]])
    assert targets_of(mask, box, box, size=4).tolist() == [[[1, 1, 0, 0]] * 4]


def test_the_target_of_a_region_beside_its_box() -> None:
    """Four pixels to the right of the box: the left half of the region sees the right half of the object."""
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[0, 4:12, 4:12] = True
    box = torch.tensor([[4.0, 4.0, 12.0, 12.0]])
    region = torch.tensor([[8.0, 4.0, 16.0, 12.0]])
    assert targets_of(mask, box, region, size=4).tolist() == [[[1, 1, 0, 0]] * 4]
    assert targets_of(mask, box, region + torch.tensor([0.0, 6, 0, 6]), size=4).tolist() == [
        [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    ]


def test_each_region_has_its_own_object() -> None:
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, 0:4, 0:8], masks[1, 8:16, 12:16] = True, True
    boxes = torch.tensor([[0.0, 0, 8, 8], [8, 8, 16, 16]])
    index = torch.tensor([1, 0, 1])
    found = mask_targets(crop_masks(masks, boxes), boxes, index, boxes[index], size=2)
    assert found.tolist() == [[[0, 1], [0, 1]], [[1, 1], [0, 0]], [[0, 1], [0, 1]]]


@pytest.mark.parametrize("size", [14, 28])
def test_targets_are_those_of_all_pixels(size: int) -> None:
    """Of discs of 16 to 400 pixels, seen by regions that overlap them by half or more: measured, 0.2 % of cells differ.

    They lie on the outline, which crosses about 4 x 28 of 784 cells. A crop's cell is a quarter of a target's, and has
    255 levels, so that the share in a cell is off by a few hundredths; few shares are as close to a half.
    """
    torch.manual_seed(0)
    differing = total = 0
    for radius in (8.0, 30.0, 90.0, 200.0):
        centre = (230.0 + 3.3, 240.0 - 1.4)
        mask = disc(460, 480, centre=centre, radius=radius)[None]
        rows, columns = torch.nonzero(mask[0], as_tuple=True)
        box = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()[None]
        side = box[0, 2] - box[0, 0]
        for _ in range(6):
            region = box + (torch.rand(1, 4) - 0.5) * 0.3 * side
            ours, theirs = targets_of(mask, box, region, size=size), targets_of_pixels(mask, region, size)
            differing += int((ours != theirs).sum())
            total += ours.numel()
    assert differing / total < 0.005


def test_boxes_without_area_and_odd_numbers_give_a_target() -> None:
    crops = torch.full((1, 112, 112), 255, dtype=torch.uint8)
    regions = torch.tensor([[0.0, 0, 0, 0], [5, 5, 5, 9], [float("inf"), 0, float("nan"), 4]])
    found = mask_targets(crops, torch.zeros(1, 4), torch.zeros(3, dtype=torch.long), regions, size=28)
    assert found.shape == (3, 28, 28) and found.isfinite().all()
    mask = torch.ones(1, 8, 8, dtype=torch.bool)
    assert crop_masks(mask, torch.tensor([[8.0, 8.0, 8.0, 8.0]])).shape == (1, 112, 112)
    assert crop_masks(mask[:0], torch.zeros(0, 4)).shape == (0, 112, 112)


def test_a_pasted_mask_fills_the_pixels_of_its_cells() -> None:
    crop = torch.tensor([[[0.9, 0.1], [0.9, 0.9]]])
    pasted = paste_masks(crop, torch.tensor([[2.0, 1.0, 6.0, 5.0]]), (6, 8))
    assert pasted.shape == (1, 6, 8) and pasted.dtype == torch.bool
    # Weights of the four pixels along an axis: 0.75, 0.75, 0.25, 0 of one cell, mirrored of the other. For instance at
    # row 2, column 4: 0.75 (0.25 x 0.9 + 0.75 x 0.1) + 0.25 x 0.9 = 0.45; at row 1, column 2: 0.75 x 0.75 x 0.9 = 0.51.
    assert pasted[0].int().tolist() == [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]


def test_pasting_is_bilinear_sampling() -> None:
    """The published form, by grid_sample."""
    torch.manual_seed(0)
    crops = torch.rand(5, 28, 28)
    corner = torch.rand(5, 2) * 40 - 5
    boxes = torch.cat([corner, corner + 3 + torch.rand(5, 2) * 50], 1)
    height, width = 50, 60
    y = (torch.arange(height) + 0.5 - boxes[:, 1:2]) / (boxes[:, 3:4] - boxes[:, 1:2]) * 2 - 1
    x = (torch.arange(width) + 0.5 - boxes[:, 0:1]) / (boxes[:, 2:3] - boxes[:, 0:1]) * 2 - 1
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], 3)
    expected = F.grid_sample(crops[:, None], grid, align_corners=False)[:, 0]
    clear = (expected - 0.5).abs() > 1e-5  # float32 sums in another order
    found = paste_masks(crops, boxes, (height, width))
    assert torch.equal(found[clear], (expected >= 0.5)[clear]) and found.any()
    assert clear.float().mean() > 0.99


def test_pasting_is_close_to_that_of_torchvision() -> None:
    """Which widens a box to whole pixels first: masks of 40 pixels and more differ along their outline at most."""
    crops = disc(28, 28, centre=(14, 14), radius=12.0).float()[None]
    boxes = torch.tensor([[10.0, 20.0, 70.0, 60.0]])
    ours = paste_masks(crops, boxes, (80, 90))[0]
    theirs = paste_masks_in_image(crops[:, None], boxes, (80, 90))[0, 0] >= 0.5
    assert ((ours & theirs).sum() / (ours | theirs).sum()) > 0.95


def test_a_crop_that_is_pasted_and_made_again_stays() -> None:
    mask = disc(120, 160, centre=(60, 80), radius=40)[None]
    box = torch.tensor([[40.0, 20.0, 120.0, 100.0]])
    pasted = paste_masks(crop_masks(mask, box).float() / 255, box, (120, 160))
    assert torch.equal(pasted, mask)


def test_pixels_are_made_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    crops, boxes = torch.rand(7, 4, 4), torch.tensor([[1.0, 2.0, 9.0, 8.0]]).expand(7, 4)
    whole = paste_masks(crops, boxes, (10, 10))
    monkeypatch.setattr("codetr.ops.masks._CHUNK", 250)
    assert [(few.start, few.stop) for few in portions(7, (10, 10))] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert torch.equal(paste_masks(crops, boxes, (10, 10)), whole)
    assert len(list(portions(3, (100, 100)))) == 3
    assert paste_masks(crops[:0], boxes[:0], (10, 10)).shape == (0, 10, 10)


def test_a_pixel_outside_of_the_box_is_never_filled() -> None:
    """Also where a cell is wider than a pixel, and the same in the form for devices."""
    boxes = torch.tensor([[20.0, 30.0, 80.0, 50.0], [20.6, 30.6, 79.4, 49.4], [-30.0, -3.5, 130.0, 200.0]])
    pasted = paste_masks(torch.ones(3, 4, 4), boxes, (100, 90))
    # In each corner there are seven pixels where both axes fade: less than a half is left.
    assert pasted[0].sum() == 60 * 20 - 4 * 7
    assert not pasted[1, :, :20].any() and not pasted[1, :, 80:].any() and not pasted[1, :30].any()
    assert pasted[2, 2:].all()
    everywhere = _pasted(torch.ones(3, 4, 4), boxes, slice(0, 100), slice(0, 90))
    assert torch.equal(everywhere, pasted)


def test_a_box_without_area_is_an_empty_mask() -> None:
    assert not paste_masks(torch.ones(1, 28, 28), torch.tensor([[3.2, 3.0, 3.2, 9.0]]), (10, 10)).any()
