"""Reference points and boxes of deformable attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Shapes = Sequence[tuple[int, int]]


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of x clamped to [eps, 1 - eps], in float32 (1 - 1e-5 rounds to 1 in half precision)."""
    x = x.float().clamp(eps, 1 - eps)
    return torch.log(x / (1 - x))


def valid_ratios(padding: Tensor, shapes: Shapes) -> Tensor:
    """Share of each level that is not padded.

    padding: (B, S) bool, padded on the right and at the bottom. Returns (B, L, 2), width then height.
    """
    ratios = []
    for level, (height, width) in zip(padding.split([h * w for h, w in shapes], dim=1), shapes, strict=True):
        filled = ~level.view(-1, height, width)
        ratios.append(torch.stack([filled[:, 0].float().mean(1), filled[:, :, 0].float().mean(1)], dim=-1))
    return torch.stack(ratios, dim=1)


def cell_centres(shapes: Shapes, ratios: Tensor) -> Tensor:
    """Centre of each token in units of its level's valid extent, (B, S, 2), x then y. ratios: (B, L, 2)."""
    centres = []
    for level, (height, width) in enumerate(shapes):
        y = (torch.arange(height, device=ratios.device) + 0.5) / height
        x = (torch.arange(width, device=ratios.device) + 0.5) / width
        grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).view(-1, 2)
        centres.append(grid / ratios[:, level, None])
    return torch.cat(centres, dim=1)


def encoder_references(shapes: Shapes, ratios: Tensor) -> Tensor:
    """Each token's own centre on every level, (B, S, L, 2), in units of the padded level."""
    return cell_centres(shapes, ratios)[:, :, None] * ratios[:, None]


def on_levels(reference: Tensor, ratios: Tensor) -> Tensor:
    """References (B, N, R) of the unpadded image on every padded level, (B, N, L, R)."""
    return reference[:, :, None] * ratios.repeat(1, 1, reference.shape[-1] // 2)[:, None]


def level_padding(padding: Tensor, shapes: Shapes) -> list[Tensor]:
    """The image's padding (B, H, W) on each level, (B, H_l, W_l) bool, by nearest interpolation."""
    image = padding[:, None].float()
    return [torch.nn.functional.interpolate(image, size=shape, mode="nearest")[:, 0].bool() for shape in shapes]
