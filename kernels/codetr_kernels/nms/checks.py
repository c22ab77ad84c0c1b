"""What the arguments of non-maximum suppression must look like."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def check(boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, *, iou_threshold: float, limit: int) -> None:
    """Raises ValueError if the arguments of `batched_nms` do not fit together."""
    if boxes.ndim != 3 or boxes.shape[2] != 4:
        raise ValueError(f"boxes must be (B, N, 4), got {tuple(boxes.shape)}")
    for name, tensor in (("scores", scores), ("groups", groups), ("valid", valid)):
        if tensor.shape != boxes.shape[:2]:
            raise ValueError(f"{name} must be {tuple(boxes.shape[:2])} as boxes, got {tuple(tensor.shape)}")
        if tensor.device != boxes.device:
            raise ValueError(f"one device needed, got boxes on {boxes.device}, {name} on {tensor.device}")
    if not (boxes.is_floating_point() and scores.is_floating_point()):
        raise ValueError(f"boxes and scores must be floating-point, got {boxes.dtype} and {scores.dtype}")
    if groups.dtype != torch.int64:
        raise ValueError(f"groups must be int64, got {groups.dtype}")
    if valid.dtype != torch.bool:
        raise ValueError(f"valid must be bool, got {valid.dtype}")
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be between 0 and 1, got {iou_threshold}")
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")


def check_decay(method: str, *, sigma: float, min_score: float) -> None:
    """Raises ValueError for settings that `soft_nms` does not take."""
    if method not in ("linear", "gaussian"):
        raise ValueError(f'method must be "linear" or "gaussian", got {method!r}')
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be positive and finite, got {sigma}")
    if not 0 <= min_score < math.inf:
        raise ValueError(f"min_score must be at least 0 and finite, got {min_score}")
