"""Instance masks: COCO polygons and run lengths to pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codetr.errors import UserError
from codetr.structures import ImageInfo


def decode_masks(segments: Sequence[Any], info: ImageInfo, annotations: Path) -> Tensor:
    """Segmentations of one image as masks (G, H, W) bool. Raises: UserError, naming the image, if one is broken."""
    if not segments:
        return torch.zeros((0, *info.size), dtype=torch.bool)
    return torch.stack([_decode(segment, info, annotations) for segment in segments])


def _decode(segment: Any, info: ImageInfo, annotations: Path) -> Tensor:
    from hotcoco import mask as run_length

    where = f"{annotations}: image id {info.image_id}"
    try:
        code = run_length.frPyObjects(segment, *info.size)
        if isinstance(segment, list):
            code = run_length.merge(code)
        size = tuple(code["size"])
        if size != info.size:  # asked before decoding, which would allocate whatever the file says
            raise ValueError(f"it is of {size[0]} x {size[1]} pixels in an image of {info.size[0]} x {info.size[1]}")
        return torch.from_numpy(run_length.decode(code)).bool()
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{where}: a segmentation cannot be decoded ({error})") from error
