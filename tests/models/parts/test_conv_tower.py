"""Towers and initialisation."""

from __future__ import annotations

import torch
from torch import nn

from codetr.models.parts.conv_tower import ConvTower, init_normal, init_xavier


def test_no_layers_change_nothing() -> None:
    features = torch.randn(1, 32, 3, 3)
    assert torch.equal(ConvTower(32, depth=0)(features), features)


def test_layers_are_convolution_norm_relu() -> None:
    tower = ConvTower(32, depth=2)
    assert sorted(dict(tower.named_parameters())) == [
        f"{i}.{name}" for i in range(2) for name in ("conv.weight", "norm.bias", "norm.weight")
    ]
    assert tower(torch.randn(1, 32, 3, 3)).min() == 0


def test_initialisation() -> None:
    layers = nn.Sequential(nn.Conv2d(64, 64, 3), nn.GroupNorm(1, 64), nn.Conv2d(64, 64, 1, bias=False))
    init_normal(layers, std=0.01)
    assert abs(layers[0].weight.std().item() - 0.01) < 5e-4  # 36864 samples: 4e-5 standard error
    assert not layers[0].bias.any() and (layers[1].weight == 1).all()
    linear = nn.Linear(50, 100)
    init_xavier(linear)
    assert 0.19 < linear.weight.abs().max().item() <= 0.2 and not linear.bias.any()  # sqrt(6 / 150) = 0.2
