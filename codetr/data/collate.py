"""Samples to one padded batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from codetr.data.coco import Sample
from codetr.data.counted_classes import ClassDraw
from codetr.ops.masks import CROP_SIDE, crop_masks
from codetr.structures import Batch, ImageBatch, Targets


def collate(
    samples: Sequence[Sample],
    *,
    seeds: Sequence[int] | None = None,
    pad_multiple: int | None = None,
    class_draw: ClassDraw | None = None,
) -> Batch:
    """Pads images on the right and at the bottom to the largest height and width, and targets to the largest count.

    samples: at least one, transformed (float images), or as read (uint8). seeds: `Targets.seeds`. pad_multiple: then to
    the next multiples of so many pixels. class_draw: of `Targets.counted_classes`; it needs the seeds. Targets are
    padded to G >= 1, crowd regions to I >= 0.
    """
    step = pad_multiple or 1
    height, width = (math.ceil(max(sample.image.shape[axis] for sample in samples) / step) * step for axis in (-2, -1))
    pixels = torch.zeros(len(samples), 3, height, width, dtype=samples[0].image.dtype)
    padding = torch.ones(len(samples), height, width, dtype=torch.bool)
    for index, sample in enumerate(samples):
        bottom, right = sample.image.shape[-2:]
        pixels[index, :, :bottom, :right] = sample.image
        padding[index, :bottom, :right] = False
    sizes = torch.tensor([sample.image.shape[-2:] for sample in samples], dtype=torch.float32)
    targets = _targets(samples, seeds)
    if class_draw is not None:
        targets = replace(targets, counted_classes=_counted_classes(samples, seeds or (), class_draw))
    return Batch(ImageBatch(pixels, padding, sizes), targets, tuple(sample.info for sample in samples))


def _targets(samples: Sequence[Sample], seeds: Sequence[int] | None) -> Targets:
    counts = tuple(len(sample.labels) for sample in samples)
    longest = max(1, *counts)
    boxes, valid = _pad_boxes([sample.boxes for sample in samples], longest)
    regions = [sample.ignore_boxes for sample in samples]
    ignore_boxes, ignore_valid = _pad_boxes(regions, max(len(region) for region in regions))
    labels = torch.zeros(len(samples), longest, dtype=torch.int64)
    for index, sample in enumerate(samples):
        labels[index, : counts[index]] = sample.labels
    crops = _mask_crops(samples, longest)
    seeded = None if seeds is None else torch.tensor(seeds, dtype=torch.int64)
    return Targets(boxes, labels, valid, counts, crops, ignore_boxes, ignore_valid, seeded)


def _counted_classes(samples: Sequence[Sample], seeds: Sequence[int], draw: ClassDraw) -> Tensor:
    pairs = zip(samples, seeds, strict=True)
    return torch.stack([draw(sample.labels, seed=seed, image_id=sample.info.image_id) for sample, seed in pairs])


def _pad_boxes(boxes: Sequence[Tensor], length: int) -> tuple[Tensor, Tensor]:
    padded = torch.zeros(len(boxes), length, 4)
    valid = torch.zeros(len(boxes), length, dtype=torch.bool)
    for index, own in enumerate(boxes):
        padded[index, : len(own)] = own
        valid[index, : len(own)] = True
    return padded, valid


def _mask_crops(samples: Sequence[Sample], length: int) -> Tensor | None:
    """Made here, so that the masks of an image never leave the process that loads it."""
    if any(sample.masks is None for sample in samples):
        return None
    padded = torch.zeros(len(samples), length, CROP_SIDE, CROP_SIDE, dtype=torch.uint8)
    for index, sample in enumerate(samples):
        assert sample.masks is not None
        padded[index, : len(sample.masks)] = crop_masks(sample.masks, sample.boxes)
    return padded
