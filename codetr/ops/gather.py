"""Rows of a batch by index."""

from __future__ import annotations

from torch import Tensor


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows (B, M, C) of values (B, P, C) at index (B, M)."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[2]))
