"""The convolutions between a pyramid and the predictions of a one-stage head."""

from __future__ import annotations

from torch import Tensor, nn

GROUPS = 32
"""Groups of every group norm between the encoder and the heads' predictions."""


class ConvLayer(nn.Module):
    """3x3 convolution without bias, group norm, ReLU."""

    def __init__(self, dim_in: int, dim_out: int, *, groups: int = GROUPS) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim_in, dim_out, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(groups, dim_out)

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(self.conv(features)).relu()


class ConvTower(nn.Sequential):
    """`depth` layers of the width `dim`; none at all is allowed (paper Table 12)."""

    def __init__(self, dim: int, *, depth: int) -> None:
        super().__init__(*(ConvLayer(dim, dim) for _ in range(depth)))


def init_normal(module: nn.Module, *, std: float) -> None:
    """Weights of every convolution and linear layer from N(0, std), their biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_xavier(module: nn.Module) -> None:
    """Weights of every linear layer Xavier-uniform, their biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
