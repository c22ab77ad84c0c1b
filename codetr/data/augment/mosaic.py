"""Mosaic: four images around a random point.

Source: Bochkovskiy et al. (YOLOv4), arXiv 2004.10934, in the form of YOLOX, arXiv 2107.08430: the canvas is twice as
wide and high as an image, none is cropped beforehand, and rescaling is left to what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from codetr.data.augment.geometry import fitted, resize_image
from codetr.data.augment.objects import blank_masks, cut, lay, resize_masks, uniform
from codetr.data.coco import Sample


def mosaic(samples: Sequence[Sample], *, size: int, visible: float) -> Sample:
    """Four samples, each resized so that it fits into a square of `size`, on a canvas twice as large.

    They touch at a point uniform in the middle half of the canvas, in both directions; what exceeds the canvas is cut,
    what stays empty is grey. visible: as in `cut`.
    """
    centre = (uniform(size // 2, 3 * size // 2), uniform(size // 2, 3 * size // 2))
    return arrange(samples, centre, size=size, visible=visible)


def arrange(samples: Sequence[Sample], centre: tuple[int, int], *, size: int, visible: float) -> Sample:
    """Four samples around `centre` (row, column): top left, top right, bottom left, bottom right."""
    row, column = centre
    canvas = (2 * size, 2 * size)
    parts, corners = [], []
    for index, sample in enumerate(_resized(sample, size) for sample in samples):
        height, width = sample.image.shape[-2:]
        top = row - height if index < 2 else row
        left = column - width if index % 2 == 0 else column
        parts.append(cut(sample, canvas, (top, left), visible=visible))
        corners.append((max(0, top), max(0, left)))
    return lay(parts, corners, canvas)


def _resized(sample: Sample, longest: int) -> Sample:
    old = sample.image.shape[-2:]
    size = fitted((old[0], old[1]), longest)
    scale = torch.tensor([size[1] / old[1], size[0] / old[0]]).repeat(2)
    masks = sample.masks
    if masks is not None:
        masks = resize_masks(masks, size, blank_masks(len(masks), size))
    return replace(
        sample,
        image=resize_image(sample.image, size),
        boxes=sample.boxes * scale,
        ignore_boxes=sample.ignore_boxes * scale,
        masks=masks,
    )
