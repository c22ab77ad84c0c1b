"""ResNet and its kin from timm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from codetr.config import Section
from codetr.errors import UserError
from codetr.models.backbones.contract import Backbone

_STEM = ("conv1", "bn1")


class ResNet(Backbone):
    """A timm ResNet that gives the maps of some of its stages.

    The published recipes take torchvision's first ImageNet weights (`resnet50.tv_in1k`), freeze the stem and the first
    stage, and keep every batch norm at its ImageNet statistics.
    """

    class Config(Section):
        model: str = Field("resnet50.tv_in1k", description="timm model name")
        pretrained: bool = Field(True, description="start from timm's weights")
        stages: tuple[int, ...] = Field((2, 3, 4), description="stages (1 to 4) whose maps are used")
        frozen_stages: int = Field(1, ge=-1, le=4, description="-1 trains all, 0 freezes the stem, n stages 1..n too")
        norm: Literal["frozen", "batch"] = Field("frozen", description="batch norm: frozen, or trained as usual")
        options: dict[str, Any] = Field(default_factory=dict, description="more arguments of timm's constructor")

    def __init__(self, config: Config, *, pretrained: bool) -> None:
        super().__init__()
        net = _create(config, pretrained=pretrained and config.pretrained)
        # Channels last: convolutions run 1.6 times as fast on a CPU, and tokens come out contiguous.
        self.net = net.to(memory_format=torch.channels_last)
        info: Any = self.net.feature_info
        self.channels, self.strides = tuple(info.channels()), tuple(info.reduction())
        self.frozen = _frozen_names(config.frozen_stages)
        for name, child in self.net.named_children():
            if name in self.frozen:
                child.requires_grad_(False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.net(pixels.contiguous(memory_format=torch.channels_last))
        return maps

    def train(self, mode: bool = True) -> ResNet:
        """Frozen stages stay in evaluation mode, or their batch norms would still move."""
        super().train(mode)
        for name, child in self.net.named_children():
            if name in self.frozen:
                child.eval()
        return self


def _frozen_names(frozen_stages: int) -> frozenset[str]:
    if frozen_stages < 0:
        return frozenset()
    return frozenset([*_STEM, *(f"layer{i}" for i in range(1, frozen_stages + 1))])


def _create(config: ResNet.Config, *, pretrained: bool) -> nn.Module:
    import timm  # slow import, needed only when a model is built
    from timm.layers.norm_act import freeze_batch_norm_2d

    stages: Sequence[int] = config.stages
    if not stages or list(stages) != sorted(set(stages)) or not set(stages) <= {1, 2, 3, 4}:
        raise UserError(
            f"backbone.stages is {list(stages)}; give stages between 1 and 4 in ascending order, as [2, 3, 4]"
        )
    try:
        net = timm.create_model(
            config.model, pretrained=pretrained, features_only=True, out_indices=tuple(stages), **config.options
        )
    except RuntimeError as error:
        raise UserError(f"backbone.model {config.model!r} cannot be built by timm: {error}") from error
    except TypeError as error:
        raise UserError(
            f"backbone.model {config.model!r} does not take these backbone.options: {error}; see timm for those that "
            "it takes"
        ) from error
    except OSError as error:
        raise UserError(
            f"the weights of {config.model!r} cannot be loaded ({error}); connect once, fill the Hugging Face cache, "
            "or set backbone.pretrained=false"
        ) from error
    return freeze_batch_norm_2d(net) if config.norm == "frozen" else net
