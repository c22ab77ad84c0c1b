"""ResNet from timm: maps, what is frozen, and what a user can get wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from codetr.errors import UserError
from codetr.models.backbones.resnet import ResNet

# Stages of one block of 8 to 32 channels.
TINY = {"model": "resnet10t", "pretrained": False, "options": {"channels": (8, 16, 24, 32), "stem_width": 8}}


def tiny(**settings: Any) -> ResNet:
    return ResNet(ResNet.Config(**{**TINY, **settings}), pretrained=True)


def trained(model: ResNet) -> set[str]:
    """Children with parameters of which all are trained; a child of which some are is a defect."""
    found = set()
    for name, child in model.net.named_children():
        wanted = {parameter.requires_grad for parameter in child.parameters()}
        assert len(wanted) <= 1, name
        if wanted == {True}:
            found.add(name)
    return found


def statistics(model: ResNet) -> dict[str, Tensor]:
    """Running means and variances, by place."""
    return {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}


@pytest.mark.parametrize(
    ("stages", "channels", "strides"),
    [
        ((2, 3, 4), (16, 24, 32), (8, 16, 32)),
        ((1, 2, 3, 4), (8, 16, 24, 32), (4, 8, 16, 32)),
        ((4,), (32,), (32,)),
        ((1, 3), (8, 24), (4, 16)),
    ],
)
def test_maps_of_the_stages(stages: tuple[int, ...], channels: tuple[int, ...], strides: tuple[int, ...]) -> None:
    model = tiny(stages=stages)
    assert model.channels == channels and model.strides == strides
    maps = model(torch.randn(2, 3, 96, 64))
    expected = [(2, width, 96 // stride, 64 // stride) for width, stride in zip(channels, strides, strict=True)]
    assert [tuple(m.shape) for m in maps] == expected


def test_odd_sizes_are_rounded_up() -> None:
    assert [tuple(m.shape[-2:]) for m in tiny()(torch.randn(1, 3, 65, 97))] == [(9, 13), (5, 7), (3, 4)]


def test_the_model_of_the_published_recipes() -> None:
    with torch.device("meta"):
        model = ResNet(ResNet.Config(pretrained=False), pretrained=False)
    assert model.channels == (512, 1024, 2048) and model.strides == (8, 16, 32)
    assert trained(model) == {"layer2", "layer3", "layer4"}


@pytest.mark.parametrize(
    ("frozen_stages", "expected"),
    [
        (-1, {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}),
        (0, {"layer1", "layer2", "layer3", "layer4"}),
        (1, {"layer2", "layer3", "layer4"}),
        (4, set()),
    ],
)
def test_frozen_stages_have_no_gradient(frozen_stages: int, expected: set[str]) -> None:
    assert trained(tiny(frozen_stages=frozen_stages, norm="batch")) == expected


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_frozen_stages_stay_in_evaluation(norm: str) -> None:
    model = tiny(frozen_stages=2, norm=norm)
    assert model.train() is model and model.training
    for name, child in model.net.named_children():
        frozen = name in {"conv1", "bn1", "layer1", "layer2"}
        assert all(module.training is not frozen for module in child.modules()), name
    model.eval()
    assert not any(module.training for module in model.modules())


def test_frozen_norms_keep_their_statistics_and_weights() -> None:
    model = tiny(frozen_stages=-1).train()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    before = statistics(model)
    assert len(before) > 0
    sum(m.square().mean() for m in model(3 + torch.randn(2, 3, 64, 64))).backward()
    assert all(torch.equal(before[name], value) for name, value in statistics(model).items())
    # Of the two tensors of a norm neither is a parameter: what is trained are convolutions.
    assert all(parameter.ndim == 4 for parameter in model.parameters())


def test_batch_norms_train_where_they_are_not_frozen() -> None:
    model = tiny(frozen_stages=1, norm="batch").train()
    before = statistics(model)
    sum(m.square().mean() for m in model(3 + torch.randn(2, 3, 64, 64))).backward()
    for name, value in statistics(model).items():
        frozen = name.removeprefix("net.").startswith(("conv1", "bn1", "layer1"))
        assert torch.equal(before[name], value) is frozen, name
    norm = model.net.layer2[0].bn2
    assert norm.weight.grad is not None and norm.weight.grad.abs().sum() > 0


def test_an_unknown_model_is_an_error() -> None:
    with pytest.raises(UserError, match=r"backbone\.model 'resnet5O' cannot be built by timm: .*resnet5O"):
        tiny(model="resnet5O", options={})


def test_an_option_that_the_model_does_not_have_is_an_error() -> None:
    with pytest.raises(UserError, match=r"backbone\.model 'resnet10t' .*backbone\.options.*'widht'"):
        tiny(options={"widht": 2})


@pytest.mark.parametrize("stages", [(), (3, 2), (2, 2), (0, 1), (4, 5)])
def test_stages_that_do_not_ascend_from_1_to_4_are_an_error(stages: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"backbone\.stages is \[.*\]; give stages between 1 and 4 in ascending order"):
        tiny(stages=stages)


def failing(error: Exception) -> Callable[..., nn.Module]:
    def create_model(*_: object, **__: object) -> nn.Module:
        raise error

    return create_model


def test_weights_that_cannot_be_fetched_are_an_error_that_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", failing(OSError("no route to host")))
    with pytest.raises(
        UserError, match=r"'resnet10t' cannot be loaded \(no route to host\).*backbone\.pretrained=false"
    ):
        tiny(pretrained=True)


@pytest.mark.parametrize(
    ("setting", "argument", "expected"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_weights_are_fetched_if_setting_and_caller_want_them(
    monkeypatch: pytest.MonkeyPatch, setting: bool, argument: bool, expected: bool
) -> None:
    asked = []
    create_model = timm.create_model

    def spy(name: str, *, pretrained: bool, **options: Any) -> nn.Module:
        asked.append(pretrained)
        return create_model(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", spy)
    ResNet(ResNet.Config(**{**TINY, "pretrained": setting}), pretrained=argument)
    assert asked == [expected]


def test_a_dilated_last_stage_is_torchvisions() -> None:
    """DC5: its blocks after the first are dilated; published weights fall apart under any other dilation."""
    options = {"output_stride": 16, "channels": (8, 16, 24, 32)}
    config = ResNet.Config(model="resnet50", pretrained=False, stages=(4,), norm="batch", options=options)
    ours = ResNet(config, pretrained=False).eval()
    block = torchvision.models.resnet.Bottleneck
    theirs = torchvision.models.ResNet(block, [3, 4, 6, 3], replace_stride_with_dilation=[False, False, True])
    assert ours.strides == (16,)
    places = {name: (m.stride, m.dilation) for name, m in ours.net.named_modules() if isinstance(m, nn.Conv2d)}
    expected = {name: (m.stride, m.dilation) for name, m in theirs.named_modules() if isinstance(m, nn.Conv2d)}
    assert places == expected
    assert [tuple(m.shape[-2:]) for m in ours(torch.randn(1, 3, 65, 97))] == [(5, 7)]
