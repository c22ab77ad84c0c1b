"""The adapter: from the encoder's output to the feature pyramid of the one-to-many heads (paper, section 3.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from codetr.models.parts.conv_tower import GROUPS
from codetr.structures import Memory, Pyramid

_SINGLE_SCALE_STRIDES = (8, 16, 32, 64, 128)


def _conv(dim: int, *, stride: int, num_groups: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(dim, dim, 3, stride=stride, padding=1), nn.GroupNorm(num_groups, dim))


class PyramidAdapter(nn.Module):
    """Memory of L levels to a pyramid of J.

    A multi-scale memory gives its own maps, untouched, and one more: a 3x3 stride-2 convolution with group norm of the
    coarsest. A single map is brought to strides 8 to 128: bilinear upsampling and a 3x3 convolution for the finer
    levels, repeated 3x3 stride-2 convolutions for the coarser ones, each with group norm. Nothing is detached.
    """

    def __init__(self, dim: int, strides: tuple[int, ...], *, num_groups: int = GROUPS) -> None:
        super().__init__()
        self.single_scale = len(strides) == 1
        self.input_stride = strides[-1]
        self.strides = self.strides_for(strides)
        added = self.strides if self.single_scale else self.strides[-1:]
        self.convs = nn.ModuleList(
            _conv(dim, stride=2 if stride > self.input_stride else 1, num_groups=num_groups) for stride in added
        )

    @staticmethod
    def strides_for(strides: tuple[int, ...]) -> tuple[int, ...]:
        """Strides of the pyramid made from a memory of these strides."""
        return _SINGLE_SCALE_STRIDES if len(strides) == 1 else (*strides, 2 * strides[-1])

    def forward(self, memory: Memory) -> Pyramid:
        maps = memory.maps()
        if self.single_scale:
            return Pyramid(tuple(self._around(maps[0])), self.strides, memory.sizes)
        return Pyramid((*maps, self.convs[0](maps[-1])), self.strides, memory.sizes)

    def _around(self, feature: Tensor) -> list[Tensor]:
        maps, coarse = [], feature
        for stride, conv in zip(self.strides, self.convs, strict=True):
            if stride > self.input_stride:
                coarse = conv(coarse)
                maps.append(coarse)
            else:
                scale = self.input_stride // stride
                size = (feature.shape[-2] * scale, feature.shape[-1] * scale)
                maps.append(conv(F.interpolate(feature, size=size, mode="bilinear", align_corners=False)))
        return maps
