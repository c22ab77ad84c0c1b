"""What the arguments of the functions of boxes must look like."""

from __future__ import annotations

import torch
from torch import Tensor


def check(a: Tensor, b: Tensor, *, names: tuple[str, str], box_format: str, least_dims: int) -> None:
    """Raises ValueError if these are not boxes of a known format on one device."""
    if box_format not in ("xyxy", "cxcywh"):
        raise ValueError(f'box_format must be "xyxy" or "cxcywh", got {box_format!r}')
    for name, boxes in zip(names, (a, b), strict=True):
        if boxes.ndim < least_dims or boxes.shape[-1] != 4:
            expected = "(..., 4)" if least_dims == 1 else "(..., N, 4)"
            raise ValueError(f"{name} must be boxes {expected}, got {tuple(boxes.shape)}")
        if not boxes.is_floating_point():
            raise ValueError(f"{name} must be floating-point, got {boxes.dtype}")
    if a.device != b.device:
        raise ValueError(f"one device needed, got {names[0]} on {a.device}, {names[1]} on {b.device}")


def broadcast_shape(a: Tensor, b: Tensor, *, names: tuple[str, str], trailing: int) -> torch.Size:
    """The common shape without the last `trailing` dimensions. Raises ValueError if there is none."""
    try:
        return torch.broadcast_shapes(a.shape[: a.ndim - trailing], b.shape[: b.ndim - trailing])
    except RuntimeError:
        raise ValueError(
            f"{names[0]} and {names[1]} must have shapes that broadcast, got {tuple(a.shape)} and {tuple(b.shape)}"
        ) from None
