"""Instance masks: COCO polygons and run lengths to pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codetr.data.index import CURE
from codetr.data.segments import segment_flaw
from codetr.errors import UserError
from codetr.structures import ImageInfo


def decode_masks(
    segments: Sequence[Any], info: ImageInfo, annotations: Path, size: tuple[int, int] | None = None
) -> Tensor:
    """Segmentations of one image as masks (G, h, w) bool.

    size: height and width of the masks, if the image was decoded smaller than `info.size`.
    Raises: UserError, naming the image, if one is broken.
    """
    shape = info.size if size is None else size
    if not segments:
        return torch.zeros((0, *shape), dtype=torch.bool)
    return torch.stack([_decode(segment, info, annotations, shape) for segment in segments])


def _decode(segment: Any, info: ImageInfo, annotations: Path, shape: tuple[int, int]) -> Tensor:
    from hotcoco import mask as run_length

    # Asked before decoding, which would allocate whatever the file says.
    flaw = segment_flaw(segment, info.size)
    if flaw is None:
        try:
            if isinstance(segment, list):
                code = run_length.merge(run_length.frPyObjects(_scaled(segment, info.size, shape), *shape))
                return torch.from_numpy(run_length.decode(code)).bool()
            mask = torch.from_numpy(run_length.decode(run_length.frPyObjects(segment, *info.size))).bool()
            return mask if shape == info.size else _sampled(mask, shape)
        except (TypeError, ValueError, KeyError) as error:
            flaw = str(error)
    raise UserError(f"{annotations}: image id {info.image_id}: a segmentation cannot be decoded ({flaw}); {CURE}")


def _scaled(polygons: list[list[float]], size: tuple[int, int], shape: tuple[int, int]) -> list[list[float]]:
    if shape == size:
        return polygons
    factors = (shape[1] / size[1], shape[0] / size[0])
    return [[value * factors[place % 2] for place, value in enumerate(polygon)] for polygon in polygons]


def _sampled(mask: Tensor, shape: tuple[int, int]) -> Tensor:
    """Every so many pixels of a mask, from the middle of what becomes one."""
    rows, columns = (
        ((torch.arange(small) + 0.5) * (large / small)).long() for small, large in zip(shape, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]
