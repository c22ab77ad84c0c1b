"""MixUp: a weighted mean of two images with the objects of both.

Source: Zhang et al., arXiv 1710.09412; for detection Zhang et al., arXiv 1902.04103 (the geometry of both is kept). As
in YOLOX, the objects of both count in full, and the second image is cropped and padded to the size of the first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codetr.data.augment.objects import cut, join, lay, uniform
from codetr.data.coco import Sample


def mixup(sample: Sample, other: Sample, *, alpha: float) -> Sample:
    """The mean of two samples of uint8 pixels, of the size of `sample`; its weight is drawn from Beta(alpha, alpha).

    Along an axis where `other` is longer a random part of it is taken; where it is shorter, it has a random place.
    """
    weight = float(torch.distributions.Beta(alpha, alpha).sample())
    size = (sample.image.shape[-2], sample.image.shape[-1])
    free = [own - its for own, its in zip(size, other.image.shape[-2:], strict=True)]
    corner = (uniform(min(0, free[0]), max(0, free[0])), uniform(min(0, free[1]), max(0, free[1])))
    second = lay([cut(other, size, corner)], [(max(0, corner[0]), max(0, corner[1]))], size)
    masks = None
    if sample.masks is not None and second.masks is not None:
        masks = torch.cat([sample.masks, second.masks])
    return join(blend(sample.image, second.image, weight), [sample, second], masks)


def blend(first: Tensor, second: Tensor, weight: float) -> Tensor:
    """uint8 pixels, `weight` times the first and the rest of the second, rounded."""
    return torch.lerp(second.float(), first.float(), weight).round_().to(torch.uint8)
