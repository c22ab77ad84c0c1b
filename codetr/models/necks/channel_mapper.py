"""The neck of the deformable family: a projection of each backbone map, and coarser levels made by convolution."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor, nn

from codetr.config import Section
from codetr.errors import UserError
from codetr.models.necks.contract import Neck


class ChannelMapper(Neck):
    """1x1 convolution and group norm per map; each extra level is a 3x3 stride-2 convolution and group norm.

    The first extra level reads the backbone's last map, the next ones the level before them. Xavier-uniform weights.
    """

    class Config(Section):
        dim: int = Field(256, gt=0, description="channels of every level")
        num_levels: int = Field(4, gt=0, description="levels in all")
        num_groups: int = Field(32, gt=0, description="groups of the norm")
        bias: bool = Field(True, description="convolutions have a bias (Deformable DETR yes, published Co-DETR no)")

    def __init__(self, config: Config, *, channels: tuple[int, ...], strides: tuple[int, ...]) -> None:
        super().__init__()
        if config.dim % config.num_groups:
            raise UserError(f"neck.dim is {config.dim}; it must be a multiple of neck.num_groups ({config.num_groups})")
        extra = config.num_levels - len(channels)
        if extra < 0:
            raise UserError(
                f"neck.num_levels is {config.num_levels}, but the backbone gives {len(channels)} maps; raise it to "
                f"{len(channels)} or more, or take fewer backbone.stages"
            )
        self.dim = config.dim
        self.strides = (*strides, *(strides[-1] * 2 ** (i + 1) for i in range(extra)))
        self.projections = nn.ModuleList(_block(config, width, kernel=1, stride=1) for width in channels)
        widths = [channels[-1], *[config.dim] * (extra - 1)][:extra]
        self.extra = nn.ModuleList(_block(config, width, kernel=3, stride=2) for width in widths)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        levels = [block(m) for block, m in zip(self.projections, maps, strict=True)]
        source = maps[-1]
        for block in self.extra:
            source = block(source)
            levels.append(source)
        return levels


def _block(config: ChannelMapper.Config, width: int, *, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(width, config.dim, kernel, stride=stride, padding=kernel // 2, bias=config.bias)
    nn.init.xavier_uniform_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, nn.GroupNorm(config.num_groups, config.dim))
