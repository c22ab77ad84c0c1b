"""What the arguments of the class losses must look like."""

from __future__ import annotations

import torch
from torch import Tensor

_INTEGERS = (torch.int64, torch.int32)
MOST_BINS = 1024


def check(logits: Tensor, weights: Tensor | None, **per_row: Tensor) -> None:
    """Raises ValueError if these are not logits (..., K) and tensors (...) on one device."""
    if logits.ndim < 1 or not logits.is_floating_point():
        raise ValueError(f"logits must be floating-point (..., K), got {logits.dtype} {tuple(logits.shape)}")
    if weights is not None:
        per_row = {**per_row, "weights": weights}
    for name, tensor in per_row.items():
        if tensor.shape != logits.shape[:-1]:
            expected = tuple(logits.shape[:-1])
            raise ValueError(f"{name} must be {expected}, one a row of logits, got {tuple(tensor.shape)}")
        if tensor.device != logits.device:
            raise ValueError(f"one device needed, got logits on {logits.device}, {name} on {tensor.device}")
    if weights is not None and not (weights.is_floating_point() or weights.dtype == torch.bool):
        raise ValueError(f"weights must be floating-point or bool, got {weights.dtype}")


def check_labels(labels: Tensor) -> None:
    """Raises ValueError if these are no integers."""
    if labels.dtype not in _INTEGERS:
        raise ValueError(f"labels must be int64 or int32, got {labels.dtype}")


def check_real(name: str, targets: Tensor) -> None:
    """Raises ValueError if these are no real numbers."""
    if not targets.is_floating_point():
        raise ValueError(f"{name} must be floating-point, got {targets.dtype}")


def check_exponent(name: str, exponent: float, least: float) -> None:
    """Raises ValueError for an exponent below `least`."""
    if not exponent >= least:
        raise ValueError(f"{name} must be at least {least:g}, got {exponent}")


def check_bins(logits: Tensor) -> None:
    """Raises ValueError if there are no two bins to share a target."""
    if logits.shape[-1] < 2:
        raise ValueError(f"logits must have at least 2 bins, got {tuple(logits.shape)}")


def beyond_kernels(logits: Tensor) -> str | None:
    """Why the kernel of distributions does not take logits of this size; None if it does."""
    if logits.shape[-1] > MOST_BINS:
        return f"it takes up to {MOST_BINS} bins, not {logits.shape[-1]}"
    return None
