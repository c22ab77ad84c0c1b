"""What the arguments of the assigners must look like."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codetr_kernels.assigners.grid import CellGrid

MOST_LEVELS, MOST_TOPK, MOST_CANDIDATES = 8, 32, 256
"""Of the kernels: levels, candidates of an object and level (ATSS), and of an object (PAA)."""


def check(priors: Tensor, prior_valid: Tensor, gt_boxes: Tensor, gt_valid: Tensor, *, name: str, width: int) -> None:
    """Raises ValueError if priors or points, called `name`, and objects do not fit together."""
    if prior_valid.dim() != 2 or prior_valid.dtype != torch.bool:
        raise ValueError(f"validity of {name} must be bool (B, P), got {_seen(prior_valid)}")
    batch, count = prior_valid.shape
    if tuple(priors.shape) not in ((count, width), (batch, count, width)):
        raise ValueError(
            f"{name} must be {(count, width)} or {(batch, count, width)}, as validity has it, got {tuple(priors.shape)}"
        )
    if gt_boxes.dim() != 3 or gt_boxes.shape[0] != batch or gt_boxes.shape[2] != 4:
        raise ValueError(f"gt_boxes must be {(batch, 'G', 4)}, got {tuple(gt_boxes.shape)}")
    if gt_valid.shape != gt_boxes.shape[:2] or gt_valid.dtype != torch.bool:
        raise ValueError(f"gt_valid must be bool {tuple(gt_boxes.shape[:2])}, got {_seen(gt_valid)}")
    for label, tensor in ((name, priors), ("gt_boxes", gt_boxes)):
        if not tensor.is_floating_point():
            raise ValueError(f"{label} must be floating-point, got {tensor.dtype}")
    check_device(**{name: priors, "validity": prior_valid, "gt_boxes": gt_boxes, "gt_valid": gt_valid})


def check_device(**tensors: Tensor) -> None:
    """Raises ValueError for tensors on several devices."""
    if len({tensor.device for tensor in tensors.values()}) > 1:
        places = ", ".join(f"{name} on {tensor.device}" for name, tensor in tensors.items())
        raise ValueError(f"one device needed, got {places}")


def check_levels(level_sizes: Sequence[int], count: int) -> None:
    """Raises ValueError if the levels are not those of `count` priors."""
    if sum(level_sizes) != count or min(level_sizes, default=0) < 0:
        raise ValueError(f"level_sizes must sum to the {count} priors, got {tuple(level_sizes)}")


def check_topk(topk: int) -> None:
    """Raises ValueError for no candidates."""
    if topk < 1:
        raise ValueError(f"topk must be at least 1, got {topk}")


def check_grid(grid: CellGrid, level_sizes: Sequence[int], batch: int) -> None:
    """Raises ValueError if a grid is not that of the levels."""
    if grid.level_sizes != tuple(level_sizes) or min(grid.level_sizes, default=0) < 1:
        raise ValueError(f"grid.shapes {grid.shapes} must be levels of {tuple(level_sizes)} cells, at least one each")
    if len(grid.strides) != len(grid.shapes) or min(grid.strides) <= 0:
        raise ValueError(f"grid.strides must be {len(grid.shapes)} positive numbers, got {grid.strides}")
    if grid.sizes is not None and grid.sizes.shape != (batch, 2):
        raise ValueError(f"grid.sizes must be {(batch, 2)} height and width, got {tuple(grid.sizes.shape)}")


def check_ranges(
    level_sizes: Sequence[int], strides: Sequence[float], ranges: Sequence[tuple[float, float]], radius: float | None
) -> None:
    """Raises ValueError if FCOS's settings are not one a level."""
    if not len(level_sizes) == len(strides) == len(ranges):
        raise ValueError(
            "level_sizes, strides and ranges must be one a level, "
            f"got {len(level_sizes)}, {len(strides)} and {len(ranges)}"
        )
    if radius is not None and radius <= 0:
        raise ValueError(f"radius must be positive, or None for whole boxes, got {radius}")


def check_losses(losses: Tensor, gt_index: Tensor, num_gts: int) -> None:
    """Raises ValueError if the losses of the priors and their objects do not fit together."""
    if gt_index.dim() != 2 or gt_index.dtype != torch.int64:
        raise ValueError(f"gt_index must be int64 (B, P), got {_seen(gt_index)}")
    if losses.shape != gt_index.shape or not losses.is_floating_point():
        raise ValueError(f"losses must be floating-point {tuple(gt_index.shape)} as gt_index, got {_seen(losses)}")
    if num_gts < 0:
        raise ValueError(f"num_gts must not be negative, got {num_gts}")
    check_device(losses=losses, gt_index=gt_index)


def _seen(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"
