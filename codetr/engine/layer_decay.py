"""Learning rates that fall with the depth of the backbone, by timm's own division of its models into layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from codetr.errors import UserError


def layer_scales(model: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """Factor on the learning rate of each parameter of the backbone; the other parameters have none, that is 1.

    The last layer has `decay`, the one before it `decay` squared, and so on down to the stem. A layer is what timm
    counts as one, in a ResNet a block.
    Raises: UserError if the backbone is not timm's.
    Source: timm.optim.param_groups_layer_decay, after Bao et al., BEiT, arXiv 2106.08254.
    """
    from timm.models import group_parameters

    net = _timm_net(model)
    renamed, matcher = _naming(net)
    parameters = {renamed(name): parameter for name, parameter in net.named_parameters()}
    view: Any = SimpleNamespace(named_parameters=parameters.items)  # all that timm asks of a model here
    layers: Mapping[str, int] = group_parameters(view, matcher, reverse=True)
    count = max(layers.values()) + 1
    return {parameter: decay ** (count - layers[name]) for name, parameter in parameters.items()}


def _timm_net(model: nn.Module) -> nn.Module:
    """The network in the backbone; timm writes into it what it was made of."""
    for module in model.modules():
        if isinstance(getattr(module, "pretrained_cfg", None), Mapping):
            return module
    raise UserError(
        "train.layer_decay: the backbone is not timm's, so the order of its layers is not known. Set it to null, and "
        "give parts of the backbone rates of their own in train.lr_groups."
    )


def _naming(net: Any) -> tuple[Callable[[str], str], Any]:
    """How the whole model names a parameter of the network that gives features, and its division into layers.

    timm takes a model apart for its features, and leaves the division behind.
    """
    import timm

    name = net.pretrained_cfg["architecture"]
    with torch.device("meta"):
        whole: Any = timm.create_model(name, pretrained=False)
    if not callable(getattr(whole, "group_matcher", None)):
        raise UserError(f"train.layer_decay: timm does not divide {name} into layers. Set it to null.")
    sequences = [child for child, module in whole.named_children() if isinstance(module, nn.Sequential)]

    def renamed(own: str) -> str:
        """Either the whole model lies inside, or the children of its sequences are children of the network."""
        for wrapping in ("model.", "body."):
            own = own.removeprefix(wrapping)
        for child in sequences:
            if own.startswith(f"{child}_"):
                return f"{child}.{own.removeprefix(f'{child}_')}"
        return own

    return renamed, whole.group_matcher(coarse=False)
