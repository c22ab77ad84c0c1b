"""The neck of the single-scale family: the backbone's last map, projected to the width of the transformer."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor, nn

from codetr.config import Section
from codetr.errors import UserError
from codetr.models.necks.contract import Neck


class Projection(Neck):
    """A 1x1 convolution; in Anchor DETR it starts Xavier-uniform without bias and a group norm follows."""

    class Config(Section):
        dim: int = Field(256, gt=0, description="channels of the map")
        num_groups: int = Field(0, ge=0, description="groups of the norm after it; 0 is no norm")

    def __init__(self, config: Config, *, channels: tuple[int, ...], strides: tuple[int, ...]) -> None:
        super().__init__()
        if len(channels) != 1:
            raise UserError(f"neck projection takes one map, the backbone gives {len(channels)}: backbone.stages=[4]")
        if config.num_groups and config.dim % config.num_groups:
            raise UserError(f"neck.dim is {config.dim}; it must be a multiple of neck.num_groups ({config.num_groups})")
        self.dim, self.strides = config.dim, strides
        self.conv = nn.Conv2d(channels[0], config.dim, 1)
        self.norm = nn.GroupNorm(config.num_groups, config.dim) if config.num_groups else nn.Identity()
        if config.num_groups and self.conv.bias is not None:
            nn.init.xavier_uniform_(self.conv.weight)
            nn.init.zeros_(self.conv.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [self.norm(self.conv(maps[0]))]
