"""Boxes: formats, units, overlaps, and the delta code of anchor-based heads.

Boxes are xyxy unless a name says otherwise. Half-precision input is widened to float32, because areas of pixel boxes
overflow float16 and lose whole pixels in bfloat16; float64 stays float64. A degenerate box (width or height <= 0) has
area 0 and IoU 0 with everything, itself included.

Dimension key: B images, N and G boxes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from codetr_kernels.boxes import pairwise_giou, pairwise_iou
from codetr_kernels.boxes.reference import aligned_giou, aligned_iou, area, cxcywh_to_xyxy, widened
from torch import Tensor

__all__ = [
    "DeltaCoder",
    "aligned_giou",
    "aligned_iou",
    "area",
    "clip",
    "cxcywh_to_xyxy",
    "denormalise",
    "normalise",
    "pairwise_giou",
    "pairwise_iou",
    "widened",
    "xyxy_to_cxcywh",
]


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) corners to centre, width, height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) * 0.5, high - low], dim=-1)


def _extent(sizes: Tensor, dims: int) -> Tensor:
    """(B, 2) height, width to (B, 1, ..., 4) width, height, width, height with `dims` dimensions."""
    height, width = sizes.unbind(-1)
    extent = torch.stack([width, height, width, height], dim=-1)
    return extent.view(-1, *([1] * (dims - 2)), 4)


def normalise(boxes_xyxy: Tensor, sizes: Tensor) -> Tensor:
    """(B, ..., 4) xyxy pixels of the padded image to cxcywh in units of the valid image.

    sizes: (B, 2) height and width in pixels. Nothing is clamped: a box that leaves its image leaves (0, 1).
    """
    boxes = widened(boxes_xyxy)
    return xyxy_to_cxcywh(boxes / _extent(sizes, boxes.dim()))


def denormalise(boxes_cxcywh: Tensor, sizes: Tensor) -> Tensor:
    """(B, ..., 4) cxcywh in units of the valid image to xyxy pixels; the inverse of `normalise`."""
    boxes = widened(boxes_cxcywh)
    return cxcywh_to_xyxy(boxes) * _extent(sizes, boxes.dim())


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """(B, ..., 4) xyxy pixels, clipped to their images. sizes: (B, 2) height and width in pixels."""
    return torch.minimum(boxes.clamp(min=0), _extent(sizes, boxes.dim()))


@dataclass(frozen=True)
class DeltaCoder:
    """Boxes as offsets from priors: shift of the centre in units of the prior's size, logarithm of the size ratio.

    means, stds: normalisation of the four deltas. max_log_ratio: bound on the decoded logarithm, so that a wild
    prediction grows a box by at most 62.5 times.

    Source: Girshick et al., R-CNN, appendix C.
    """

    means: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    stds: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    max_log_ratio: float = abs(math.log(16 / 1000))

    def encode(self, priors: Tensor, boxes: Tensor) -> Tensor:
        """Deltas (..., 4) of broadcast xyxy boxes; sizes below 1e-3 count as 1e-3, so the result is finite."""
        prior, box = xyxy_to_cxcywh(widened(priors)), xyxy_to_cxcywh(widened(boxes))
        size = prior[..., 2:].clamp(min=1e-3)
        shift = (box[..., :2] - prior[..., :2]) / size
        ratio = (box[..., 2:].clamp(min=1e-3) / size).log()
        parts = torch.cat([shift, ratio], dim=-1).unbind(-1)
        scaled = [(part - mean) / std for part, mean, std in zip(parts, self.means, self.stds, strict=True)]
        return torch.stack(scaled, dim=-1)

    def decode(self, priors: Tensor, deltas: Tensor) -> Tensor:
        """The xyxy boxes (..., 4) that broadcast deltas stand for; not clipped to the image."""
        prior = xyxy_to_cxcywh(widened(priors))
        parts = widened(deltas).unbind(-1)
        dx, dy, dw, dh = (part * std + mean for part, mean, std in zip(parts, self.means, self.stds, strict=True))
        centre = prior[..., :2] + prior[..., 2:] * torch.stack([dx, dy], dim=-1)
        ratio = torch.stack([dw, dh], dim=-1).clamp(-self.max_log_ratio, self.max_log_ratio)
        return cxcywh_to_xyxy(torch.cat([centre, prior[..., 2:] * ratio.exp()], dim=-1))
