"""Objects under augmentation: boxes of masks, masks that are resized, samples that are moved, cut and joined.

Everything here takes samples as read: uint8 pixels, boxes in pixels, masks (G, H, W) bool or None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from codetr.data.coco import Sample

GREY = 114
"""What is no picture, before pixels are normalised: mmdetection's and YOLO's choice, and so the published one."""


def blank_masks(count: int, size: tuple[int, int]) -> Tensor:
    """Masks (count, H, W) bool, all false. Unlike with `torch.zeros`, memory is taken as they are written to."""
    return torch.from_numpy(np.zeros((count, *size), dtype=np.bool_))


def tight_boxes(masks: Tensor) -> Tensor:
    """The boxes (G, 4) float, xyxy, that just hold the pixels of masks (G, H, W); zeros for a mask without any."""
    boxes = torch.zeros(len(masks), 4)
    if not masks.numel():
        return boxes
    pixels = masks.view(torch.uint8)  # bytes are reduced ten times as fast as truth values
    for axis, extent in enumerate((pixels.amax(1), pixels.amax(2))):  # across, down
        boxes[:, axis] = extent.argmax(1)
        boxes[:, axis + 2] = (extent.shape[1] - extent.flip(1).argmax(1)) * extent.amax(1)
    return boxes


def resize_masks(masks: Tensor, size: tuple[int, int], out: Tensor, corner: tuple[int, int] = (0, 0)) -> Tensor:
    """Fill `out` with masks (G, h, w) as they are when resized to `size`, from `corner` (row, column) on.

    out: (G, H, W) bool, all false, and no larger than what is left of `size`. A pixel takes the value that lies at its
    centre. Only the pixels of each object's box are touched, so that many small objects cost little.
    """
    rows = _sources(masks.shape[1], size[0])[corner[0] :][: out.shape[1]]
    columns = _sources(masks.shape[2], size[1])[corner[1] :][: out.shape[2]]
    left, top, right, bottom = tight_boxes(masks).numpy().T
    down = np.stack([np.searchsorted(rows, top), np.searchsorted(rows, bottom)], axis=1)
    across = np.stack([np.searchsorted(columns, left), np.searchsorted(columns, right)], axis=1)
    for source, target, (y1, y2), (x1, x2) in zip(masks.numpy(), out.numpy(), down, across, strict=True):
        target[y1:y2, x1:x2] = source[rows[y1:y2]].take(columns[x1:x2], axis=1)
    return out


def take(sample: Sample, keep: Tensor) -> Sample:
    """Only the objects of a sample that `keep` (G,) bool marks."""
    if bool(keep.all()):
        return sample
    masks = None if sample.masks is None else sample.masks[keep]
    return replace(sample, boxes=sample.boxes[keep], labels=sample.labels[keep], masks=masks)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (G, 4) cut at the border of an image of `size` (height, width)."""
    height, width = size
    return torch.stack([boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)], dim=-1).flatten(1)


def cut(sample: Sample, size: tuple[int, int], corner: tuple[int, int], *, visible: float = 0.0) -> Sample:
    """What is seen of a sample whose top left lies at `corner` (row, column) of a canvas of `size` (height, width).

    The box of an object that is cut is that of the rest of its mask, or clipped if there are no masks. It goes if at
    most 2 px of a side or the share `visible` of its box remain (YOLOv5's rule for candidates), as does an object of
    which nothing is left.
    """
    height, width = sample.image.shape[-2:]
    down, across = (
        slice(max(0, -start), max(0, min(side, limit - start)))
        for start, side, limit in zip(corner, (height, width), size, strict=True)
    )
    image = sample.image[:, down, across]
    seen = (image.shape[1], image.shape[2])
    shift = torch.tensor([across.start, down.start] * 2)
    whole = sample.boxes - shift
    boxes = clip(whole, seen)
    is_cut = (boxes != whole).any(dim=1)
    masks = sample.masks
    if masks is not None:
        masks = masks[:, down, across]
        boxes = torch.where(is_cut[:, None], tight_boxes(masks), boxes)
    keep = _sides(boxes).amin(1) > torch.where(is_cut, 2.0, 0.0)
    keep &= ~is_cut | (_sides(boxes).prod(1) > visible * _sides(whole).prod(1))
    regions = clip(sample.ignore_boxes - shift, seen)
    regions = regions[_sides(regions).amin(1) > 0]
    return take(replace(sample, image=image, boxes=boxes, masks=masks, ignore_boxes=regions), keep)


def lay(samples: Sequence[Sample], corners: Sequence[tuple[int, int]], size: tuple[int, int]) -> Sample:
    """Samples on one grey canvas of `size` (height, width), each wholly inside, its top left at its corner (row,
    column); the later ones on top. The result keeps the name of the first."""
    image = torch.full((3, *size), GREY, dtype=torch.uint8)
    masks = None if samples[0].masks is None else blank_masks(sum(len(sample.labels) for sample in samples), size)
    moved = []
    done = 0
    for sample, (top, left) in zip(samples, corners, strict=True):
        height, width = sample.image.shape[-2:]
        image[:, top : top + height, left : left + width] = sample.image
        if masks is not None and sample.masks is not None:
            target = masks[done : done + len(sample.masks), top : top + height, left : left + width]
            copy_masks(sample.masks, target)
        done += len(sample.labels)
        shift = torch.tensor([left, top, left, top])
        moved.append(replace(sample, boxes=sample.boxes + shift, ignore_boxes=sample.ignore_boxes + shift))
    return join(image, moved, masks)


def copy_masks(masks: Tensor, out: Tensor) -> None:
    """Copy masks (G, H, W) bool to `out`, which is all false; only the pixels of each object's box are touched."""
    boxes = tight_boxes(masks).int().tolist()
    for source, target, (x1, y1, x2, y2) in zip(masks.numpy(), out.numpy(), boxes, strict=True):
        target[y1:y2, x1:x2] = source[y1:y2, x1:x2]


def join(image: Tensor, samples: Sequence[Sample], masks: Tensor | None) -> Sample:
    """A sample with the objects and crowd regions of several, in order; it keeps the name of the first."""
    return replace(
        samples[0],
        image=image,
        boxes=torch.cat([sample.boxes for sample in samples]),
        labels=torch.cat([sample.labels for sample in samples]),
        ignore_boxes=torch.cat([sample.ignore_boxes for sample in samples]),
        masks=masks,
    )


def uniform(low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included, of the global generator."""
    return int(torch.randint(low, high + 1, ()))


def _sides(boxes: Tensor) -> Tensor:
    return boxes[:, 2:] - boxes[:, :2]


def _sources(length: int, target: int) -> np.ndarray:
    """The pixel of `length` at the centre of each of `target` pixels."""
    return ((2 * np.arange(target) + 1) * length) // (2 * target)
