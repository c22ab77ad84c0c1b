"""RoIAlign over a feature pyramid, each region on the one level that suits its size.

Dimension key: B images, S regions of an image, C channels, O output size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codetr.ops.boxes import area, widened


def roi_levels(boxes: Tensor, *, num_levels: int, finest_scale: float) -> Tensor:
    """Level of each xyxy pixel box (..., 4): 0 below twice the finest scale, one more for each doubling.

    Source: Lin et al., Feature Pyramid Networks, Eq. 1, with the floor on the finest level.
    """
    octave = (area(boxes).sqrt() / finest_scale + 1e-6).log2().floor()
    return octave.clamp(0, num_levels - 1).long()


def multilevel_roi_align(
    maps: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, *, output_size: int, finest_scale: float
) -> Tensor:
    """Features (B, S, C, O, O) of regions.

    maps: (B, C, H_l, W_l) each, widened to float32. strides: pixels per cell of each map. boxes: (B, S, 4) xyxy pixels
    of the widened type, no gradient. Bins are sampled as densely as their cells, pixel centres lie at +0.5.
    A degenerate region gives zeros.

    On the levels where a region does not belong it is an empty box, which has no sampling points: shapes stay static
    and the sum over levels costs little more than one level.

    Source: He et al., Mask R-CNN, section 3.
    """
    from torchvision.ops import roi_align

    num_images, num_regions = boxes.shape[:2]
    image = torch.arange(num_images, device=boxes.device).view(-1, 1, 1).expand(-1, num_regions, 1)
    level = roi_levels(boxes, num_levels=len(maps), finest_scale=finest_scale)
    pooled: list[Tensor] = []
    for number, (features, stride) in enumerate(zip(maps, strides, strict=True)):
        here = boxes.masked_fill((level != number).unsqueeze(-1), 0)
        regions = torch.cat([image.to(here), here], dim=-1).flatten(0, 1)
        pooled.append(roi_align(widened(features), regions, output_size, 1 / stride, sampling_ratio=0, aligned=True))
    return torch.stack(pooled).sum(0).unflatten(0, (num_images, num_regions))
