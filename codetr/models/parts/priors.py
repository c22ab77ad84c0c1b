"""Anchors of a pyramid, and the view of its cells as one list.

Dimension key: B images, P priors, A anchors of a cell, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from codetr_kernels.assigners import CellGrid
from torch import Tensor

from codetr.assigners.contract import Priors
from codetr.structures import Pyramid


@dataclass(frozen=True)
class AnchorGrid:
    """Anchors of every cell, centred on its corner (index * stride) unless told otherwise.

    scale: side of the smallest square anchor in units of the stride. scales_per_octave: sizes scale * 2^(i / n).
    ratios: height over width at constant area. Order of the anchors: level, row, column, ratio, size.
    in_padding: anchors in the padding of the batch are valid too, otherwise only those whose cell begins in the image.
    offset: shift of the centres in strides; 0.5 puts them in the middle of the cells, as FCOS has its points.

    Source: Lin et al., Focal Loss for Dense Object Detection, section 4.
    """

    scale: float
    scales_per_octave: int = 1
    ratios: tuple[float, ...] = (1.0,)
    in_padding: bool = False
    offset: float = 0.0

    def __len__(self) -> int:
        return len(self.ratios) * self.scales_per_octave

    def priors(self, pyramid: Pyramid) -> Priors:
        """All anchors (P, 4), which of them are valid in which image, and their grid if they are one a cell."""
        levels = list(zip(pyramid.maps, pyramid.strides, strict=True))
        boxes = [self._level(features, stride) for features, stride in levels]
        valid = torch.cat([_cells_inside(features, stride, pyramid.sizes) for features, stride in levels], dim=1)
        valid = (valid | self.in_padding).repeat_interleave(len(self), dim=1)
        return Priors(torch.cat(boxes), valid, tuple(len(level) for level in boxes), self._grid(pyramid))

    def _grid(self, pyramid: Pyramid) -> CellGrid | None:
        """Where the anchors lie, if they are one a cell."""
        if len(self) > 1:
            return None
        height_width = tuple((features.shape[2], features.shape[3]) for features in pyramid.maps)
        return CellGrid(height_width, pyramid.strides, self.offset, None if self.in_padding else pyramid.sizes)

    def _level(self, features: Tensor, stride: int) -> Tensor:
        """(H * W * A, 4) anchors of one level. Made on the device: host values would have to be copied over."""
        device = features.device
        height, width = features.shape[-2:]
        exponent = torch.arange(self.scales_per_octave, device=device) / self.scales_per_octave
        side = self.scale * stride * exponent.exp2()
        root = [ratio**0.5 for ratio in self.ratios]
        half_w = torch.cat([side / r for r in root]) * 0.5
        half_h = torch.cat([side * r for r in root]) * 0.5
        half = torch.stack([-half_w, -half_h, half_w, half_h], dim=-1)
        y = (torch.arange(height, device=device) + self.offset) * float(stride)
        x = (torch.arange(width, device=device) + self.offset) * float(stride)
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        centre = torch.stack([grid_x, grid_y, grid_x, grid_y], dim=-1).view(-1, 1, 4)
        return (centre + half).flatten(0, 1)


def _cells_inside(features: Tensor, stride: int, sizes: Tensor) -> Tensor:
    """(B, H * W) bool: cells among the first ceil(size / stride) rows and columns."""
    height, width = features.shape[-2:]
    rows = torch.arange(height, device=features.device) * stride < sizes[:, :1]
    columns = torch.arange(width, device=features.device) * stride < sizes[:, 1:]
    return (rows.unsqueeze(2) & columns.unsqueeze(1)).flatten(1)


def flat_cells(maps: tuple[Tensor, ...], *, per_cell: int = 1) -> Tensor:
    """Maps (B, A * C, H_l, W_l) as one (B, P, C), in the order of `AnchorGrid.priors`; `per_cell` is A."""
    levels = [features.flatten(2).transpose(1, 2) for features in maps]
    return torch.cat(levels, dim=1).unflatten(2, (per_cell, -1)).flatten(1, 2)
