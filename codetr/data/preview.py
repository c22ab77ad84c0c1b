"""Pictures of a batch: what a model sees of images and their annotations, made visible again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from codetr.data.sheet import draw_objects
from codetr.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from codetr.ops.masks import paste_masks
from codetr.structures import Batch

HATCH = 8  # px, width of the stripes that stand for padding
DARK, BRIGHT = 30, 60  # their grey levels


def picture(batch: Batch, index: int, classes: Sequence[str]) -> Image.Image:
    """One image of a batch with its boxes, class names, masks and crowd regions; padding of the batch is striped.

    classes: names by label. Masks are drawn from the crops that a model learns from.
    """
    targets = batch.targets
    count = targets.counts[index]
    boxes, labels = targets.boxes[index, :count], targets.labels[index, :count].tolist()
    pixels = _pixels(batch.images.pixels[index], batch.images.padding[index])
    masks = None
    if targets.mask_crops is not None:
        masks = paste_masks(targets.mask_crops[index, :count] / 255, boxes, (pixels.shape[0], pixels.shape[1]))
    regions = _regions(batch, index)
    if masks is not None:
        masks = torch.cat([masks, masks.new_zeros(len(regions), *masks.shape[1:])])
    return draw_objects(
        Image.fromarray(pixels),
        torch.cat([boxes, regions]).numpy(),
        [*labels, *[0] * len(regions)],
        [*(classes[label] for label in labels), *["crowd"] * len(regions)],
        masks=None if masks is None else masks.numpy(),
        crowd=[False] * count + [True] * len(regions),
    )


def caption(batch: Batch, index: int) -> str:
    """The name of the file, its width and height, and those of what became of it."""
    info, (height, width) = batch.infos[index], batch.images.sizes[index].int().tolist()
    name = info.file.replace("\\", "/").rpartition("/")[2]
    return f"{name}  {info.size[1]} x {info.size[0]} to {width} x {height}"


def _regions(batch: Batch, index: int) -> Tensor:
    targets = batch.targets
    if targets.ignore_boxes is None or targets.ignore_valid is None:
        return torch.zeros(0, 4)
    return targets.ignore_boxes[index][targets.ignore_valid[index]]


def _pixels(image: Tensor, padding: Tensor) -> NDArray[np.uint8]:
    """Normalised pixels (3, H, W) as (H, W, 3) uint8."""
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    bright = ((image * deviation + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    rows, columns = (torch.arange(side) for side in padding.shape)
    stripes = (rows[:, None] + columns) // HATCH % 2 * (BRIGHT - DARK) + DARK
    return torch.where(padding, stripes.to(torch.uint8), bright).permute(1, 2, 0).contiguous().numpy()
