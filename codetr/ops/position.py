"""Sine embeddings: of the cells of an image, and of coordinates."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _frequencies(num_features: int, temperature: float, device: torch.device) -> Tensor:
    """Divisors (num_features,), equal for the sine and the cosine that follows it."""
    index = torch.arange(num_features, dtype=torch.float32, device=device)
    return temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / num_features)


def sine_embedding(coordinates: Tensor, num_features: int, *, temperature: float = 10000.0) -> Tensor:
    """Interleaved sine and cosine of each coordinate.

    coordinates: (..., R) in (0, 1). Returns float32 (..., R * num_features), coordinate by coordinate in the given
    order.
    Source: Vaswani et al. 2017; the proposal embedding of Deformable DETR.
    """
    divisors = _frequencies(num_features, temperature, coordinates.device)
    angle = coordinates.float()[..., None] * (2 * math.pi) / divisors
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-3)


def image_position(
    padding: Tensor, num_features: int, *, temperature: float = 10000.0, offset: float = 0.0, eps: float = 1e-6
) -> Tensor:
    """Position embedding of the cells of a level, counted over the cells that are not padded.

    padding: (B, H, W) bool, True where padded. offset: subtracted from the 1-based cell index before normalising.
    Returns float32 (B, H, W, 2 * num_features), y first.
    Source: Carion et al., DETR, arXiv 2005.12872; offset 0.5 in Deformable DETR.
    """
    filled = (~padding).float()
    y, x = filled.cumsum(1), filled.cumsum(2)
    y = (y - offset) / (y[:, -1:, :] + eps)
    x = (x - offset) / (x[:, :, -1:] + eps)
    return sine_embedding(torch.stack([y, x], dim=-1), num_features, temperature=temperature)
