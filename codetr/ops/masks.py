"""Masks as crops of their boxes: made of pixels, compared with regions, and turned into pixels again.

A crop follows its box through any change of scale, and is a hundredth of the object's pixels in a training image.

Dimension key: G objects, M side of a crop, R regions, O side of a region's target, D detections, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

CROP_SIDE = 112
"""Cells of a crop along each axis: four for each of the 28 that a mask branch learns, if the region is the box."""

_FULL = 255
_FARTHEST = 16.0  # a region that a target is made for ends within so many sides of its box; bounds the sampling
_CHUNK = 2**24  # pixels that are pasted at once, four bytes each


def crop_masks(masks: Tensor, boxes: Tensor, *, side: int = CROP_SIDE) -> Tensor:
    """Crops (G, M, M) uint8: the share of the object in each cell of its box, 255 = all of it.

    masks: (G, H, W) bool. boxes: (G, 4) xyxy pixels, inside the image. On the host, one object after the other: no
    more than one box of pixels is widened at a time. The numbers are those of RoIAlign, whose weights are separable.
    """
    crops = torch.zeros(len(masks), side, side, dtype=torch.uint8)
    for index, (mask, box) in enumerate(zip(masks, boxes.tolist(), strict=True)):
        left, top = (max(0, math.floor(value) - 1) for value in box[:2])
        right, bottom = (math.ceil(value) + 1 for value in box[2:])
        window = mask[top:bottom, left:right].float()
        if window.numel():
            rows = _sampling(box[1] - top, box[3] - top, window.shape[0], side)
            columns = _sampling(box[0] - left, box[2] - left, window.shape[1], side)
            crops[index] = (rows @ window @ columns.T * _FULL).round()
    return crops


def mask_targets(crops: Tensor, crop_boxes: Tensor, index: Tensor, regions: Tensor, *, size: int) -> Tensor:
    """Targets (R, O, O), 1 where the object fills at least half of a region's cell, else 0. Static shapes.

    crops: (G, M, M) uint8, of crop_boxes (G, 4). index: (R,) the object of each region. regions: (R, 4) in the same
    pixels, which overlap with the box of their object. Outside of its box an object is nowhere.

    Source: `BitmapMasks.crop_and_resize` of mmdetection (RoIAlign of the object's pixels, cells sampled as densely as
    they are wide, pixel centres at +0.5, threshold 0.5), on crops instead of images.
    """
    side = crops.shape[-1]
    boxes = crop_boxes[index]
    extent = (boxes[:, 2:] - boxes[:, :2]).clamp(min=torch.finfo(boxes.dtype).tiny)
    within = (regions.unflatten(1, (2, 2)) - boxes[:, None, :2]) / extent[:, None]
    within = torch.nan_to_num(within).clamp(-_FARTHEST, _FARTHEST) * side + 1  # 1: for the rim
    within = torch.cat([within[:, 0], torch.maximum(within[:, 0], within[:, 1])], dim=1)
    rimmed = F.pad(crops, (1, 1, 1, 1)).unsqueeze(1).to(within.dtype)
    return (_roi_align(rimmed, within, size, index) >= _FULL / 2).to(within.dtype)


def paste_masks(crops: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (D, H, W) bool of an image of `size` (height, width): the pixels at whose centres a crop is at least 0.5.

    crops: (D, M, M) probabilities in the cells of boxes (D, 4) xyxy pixels. Between the centres of cells they are
    interpolated linearly; half a cell beyond the box they are 0, so that no pixel outside of it is reached. Pixels are
    made in portions of bounded memory.

    Source: `_do_paste_mask` of mmdetection and detectron2, as two matrix products: bilinear weights are separable.
    """
    height, width = size
    boxes = boxes.nan_to_num()
    masks = crops.new_zeros((len(crops), height, width), dtype=torch.bool)
    on_host = crops.device.type == "cpu"
    for few in _single(len(crops)) if on_host else portions(len(crops), size):
        # On the host only the pixels of the box are made; on a device it would have to be read.
        across = _reach(boxes[few, 0], boxes[few, 2], width) if on_host else slice(0, width)
        down = _reach(boxes[few, 1], boxes[few, 3], height) if on_host else slice(0, height)
        masks[few, down, across] = _pasted(crops[few].float(), boxes[few], down, across)
    return masks


def portions(count: int, size: tuple[int, int]) -> Iterator[slice]:
    """Runs of `count` masks of an image of `size` (height, width), as many at a time as memory should hold."""
    portion = max(1, _CHUNK // max(1, size[0] * size[1]))
    return (slice(start, start + portion) for start in range(0, count, portion))


def _pasted(crops: Tensor, boxes: Tensor, down: slice, across: slice) -> Tensor:
    """The rows `down` and columns `across` of masks."""
    rows = _weights(boxes[:, 1], boxes[:, 3], down, crops.shape[1])
    columns = _weights(boxes[:, 0], boxes[:, 2], across, crops.shape[2])
    return rows @ crops @ columns.transpose(1, 2) >= 0.5


def _single(count: int) -> Iterator[slice]:
    return (slice(index, index + 1) for index in range(count))


def _reach(low: Tensor, high: Tensor, length: int) -> slice:
    """The pixels of a box from `low` to `high` (1,) along one axis."""
    first, last = math.floor(low.item()), math.ceil(high.item())
    return slice(min(max(first, 0), length), min(max(last, 0), length))


def _weights(low: Tensor, high: Tensor, pixels: slice, cells: int) -> Tensor:
    """Weight (D, pixels, cells) of each cell in each pixel along one axis of boxes from `low` to `high` (D,)."""
    pixel = torch.arange(pixels.start, pixels.stop, device=low.device) + 0.5
    cell = torch.arange(cells, device=low.device) + 0.5
    extent = (high - low).float().clamp(min=1e-6)
    place = (pixel - low.float()[:, None]) / extent[:, None] * cells
    return (1 - (place.unsqueeze(2) - cell).abs()).clamp(min=0)


def _sampling(low: float, high: float, length: int, cells: int) -> Tensor:
    """Weight (cells, length) of each pixel along one axis in the cells from `low` to `high`.

    A cell has a sample for each pixel that it is wide; each lies between the centres of two pixels.
    """
    width = (high - low) / cells
    samples = max(1, math.ceil(width))
    place = low + (torch.arange(cells * samples) + 0.5) * (width / samples) - 0.5
    place = place.clamp(0, length - 1).view(cells, samples)
    first = place.floor()
    share = (place - first) / samples
    weights = torch.zeros(cells, length).scatter_add_(1, first.long(), 1 / samples - share)
    return weights.scatter_add_(1, (first.long() + 1).clamp(max=length - 1), share)


def _roi_align(images: Tensor, boxes: Tensor, size: int, index: Tensor) -> Tensor:
    """Means (R, O, O) of the cells of boxes (R, 4), each in its own of images (G, 1, H, W)."""
    from torchvision.ops import roi_align

    regions = torch.cat([index.to(boxes)[:, None], boxes], dim=1)
    return roi_align(images, regions, size, 1.0, sampling_ratio=0, aligned=True)[:, 0]
