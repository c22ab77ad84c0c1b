"""Learning rates by depth, against timm's own."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from codetr.engine.config import ParameterGroup
from codetr.engine.layer_decay import layer_scales
from codetr.engine.optim import parameter_groups
from codetr.errors import UserError
from codetr.models.backbones.resnet import ResNet


def backbone(name: str = "resnet10t", stages: tuple[int, ...] = (2, 3, 4)) -> ResNet:
    config = ResNet.Config(model=name, stages=stages, frozen_stages=-1, norm="batch")
    with torch.device("meta"):
        return ResNet(config, pretrained=False)


def scales_by_name(net: nn.Module, decay: float) -> dict[str, float]:
    scales = layer_scales(net, decay)
    return {name: scales[parameter] for name, parameter in net.named_parameters() if parameter in scales}


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_scales_are_those_of_timm(name: str) -> None:
    with torch.device("meta"):
        whole = timm.create_model(name)
    names = {parameter: own for own, parameter in whole.named_parameters()}
    groups = param_groups_layer_decay(whole, layer_decay=0.75)
    expected = {f"net.{names[parameter]}": group["lr_scale"] for group in groups for parameter in group["params"]}
    assert expected.pop("net.fc.weight") == expected.pop("net.fc.bias") == 1.0
    assert scales_by_name(backbone(name), 0.75) == expected


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224"])
def test_a_network_that_timm_renames_for_its_features_has_them_too(name: str) -> None:
    """The scales of the parts that both have, in the order of the model."""
    with torch.device("meta"):
        whole, net = timm.create_model(name), timm.create_model(name, features_only=True)
    names = {parameter: own for own, parameter in whole.named_parameters()}
    groups = param_groups_layer_decay(whole, layer_decay=0.5)
    theirs = {names[parameter]: group["lr_scale"] for group in groups for parameter in group["params"]}
    ours = scales_by_name(net, 0.5)
    plain = {own.removeprefix("model.").replace("stages_", "stages.").replace("stem_", "stem."): own for own in ours}
    assert {own: ours[full] for own, full in plain.items()} == {own: theirs[own] for own in plain}


def test_layers_are_counted_from_the_last_one_that_is_used() -> None:
    found = scales_by_name(backbone(stages=(2, 3)), 0.5)
    assert "net.layer4.0.conv1.weight" not in found
    assert found["net.layer3.0.conv1.weight"] == 0.5
    assert found["net.layer1.0.conv1.weight"] == 0.125
    assert found["net.conv1.0.weight"] == found["net.bn1.bias"] == 0.0625


def test_the_factors_of_groups_come_on_top() -> None:
    model = nn.ModuleDict({"backbone": backbone(), "head": nn.Linear(2, 2)})
    groups = parameter_groups(model, (ParameterGroup(match="backbone", factor=0.1),), layer_decay=0.5)
    factors = {name: group["factor"] for group in groups for name in group["names"]}
    assert factors["head.weight"] == 1.0
    assert factors["backbone.net.layer4.0.conv1.weight"] == pytest.approx(0.05)
    assert factors["backbone.net.layer3.0.conv1.weight"] == pytest.approx(0.025)
    assert len(groups) == 1 + 5


def test_another_backbone_has_no_known_layers() -> None:
    with pytest.raises(UserError, match=r"train\.layer_decay: the backbone is not timm's"):
        layer_scales(nn.Linear(2, 2), 0.5)
