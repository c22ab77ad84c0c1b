"""The contract of a neck."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from codetr.config import Section


class Neck(nn.Module, ABC):
    """Backbone maps to maps of one width. Built as `Variant(config, channels=..., strides=...)` of the backbone.

    dim: channels of every map. strides: pixels per cell of each map, finest first.
    """

    Config: ClassVar[type[Section]]
    dim: int
    strides: tuple[int, ...]

    @abstractmethod
    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, channels[i], H_i, W_i) to maps (B, dim, H_l, W_l)."""
