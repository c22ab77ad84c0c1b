"""The contract of a backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from codetr.config import Section


class Backbone(nn.Module, ABC):
    """An image to feature maps. Built as `Variant(config, pretrained=...)`.

    channels, strides: of each map, finest first. pretrained: False builds without published weights (a checkpoint
    follows).
    """

    Config: ClassVar[type[Section]]
    channels: tuple[int, ...]
    strides: tuple[int, ...]

    @abstractmethod
    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to maps (B, channels[i], H_i, W_i)."""
