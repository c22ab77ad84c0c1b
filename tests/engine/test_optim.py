"""Parameter groups by name, and the optimizer's memory by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from codetr.engine.config import ParameterGroup, TrainConfig
from codetr.engine.optim import (
    build_optimizer,
    clip_gradients,
    parameter_groups,
    rates_line,
    set_learning_rate,
)
from codetr.errors import UserError

CPU = torch.device("cpu")
PUBLISHED = TrainConfig().lr_groups


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        self.backbone[0].requires_grad_(False)
        self.sampling_offsets = nn.Linear(2, 2, bias=False)
        self.classes = nn.Linear(2, 2, bias=False)
        self.shared = self.classes


def of_names(*names: str) -> nn.Module:
    """A model with a number of each name."""
    model = nn.Module()
    for name in names:
        *path, last = name.split(".")
        module = model
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(last, nn.Parameter(torch.zeros(1)))
    return model


def settings_of(model: nn.Module, *groups: ParameterGroup) -> dict[str, tuple[float, float | None]]:
    """Factor and weight decay of each parameter."""
    return {
        name: (group["factor"], group.get("weight_decay"))
        for group in parameter_groups(model, groups)
        for name in group["names"]
    }


def test_published_factors() -> None:
    factors = {
        "base.backbone.net.conv1.weight": 0.1,
        "base.decoder.layers.0.cross.sampling_offsets.bias": 0.1,
        "base.reference_points.weight": 0.1,
        "base.decoder.layers.0.norm.weight": 1.0,
        "heads.atss.classify.weight": 1.0,
    }
    found = settings_of(of_names(*factors), *PUBLISHED)
    assert found == {name: (factor, None) for name, factor in factors.items()}


def test_the_first_group_that_says_something_decides_it() -> None:
    model = of_names("a.b.c", "a.b.d", "a.c")
    assert settings_of(model, ParameterGroup(match="b.c", factor=0.5), ParameterGroup(match="b", factor=0.2)) == {
        "a.b.c": (0.5, None),
        "a.b.d": (0.2, None),
        "a.c": (1.0, None),
    }
    still = ParameterGroup(match="a.b", factor=0.0), ParameterGroup(match="a", factor=0.5)
    assert settings_of(model, *still) == {"a.b.c": (0.0, None), "a.b.d": (0.0, None), "a.c": (0.5, None)}
    decay, both = ParameterGroup(match="c", weight_decay=0.0), ParameterGroup(match="b", factor=0.2, weight_decay=0.3)
    assert settings_of(model, decay, both) == {"a.b.c": (0.2, 0.0), "a.b.d": (0.2, 0.3), "a.c": (1.0, 0.0)}


def test_norms_and_biases_without_weight_decay() -> None:
    model = nn.ModuleDict({"backbone": nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), "head": nn.Linear(2, 2)})
    groups = [ParameterGroup(match=match, weight_decay=0.0) for match in ("norm", "bias")]
    config = TrainConfig(lr_groups=(*groups, ParameterGroup(match="backbone", factor=0.1)), weight_decay=0.5)
    optimizer = build_optimizer(model, config, device=CPU)
    found = {name: (g["factor"], g["weight_decay"]) for g in optimizer.param_groups for name in g["names"]}
    assert found == {
        "backbone.0.weight": (0.1, 0.5),
        "backbone.0.bias": (0.1, 0.0),
        "backbone.1.weight": (0.1, 0.0),
        "backbone.1.bias": (0.1, 0.0),
        "head.weight": (1.0, 0.5),
        "head.bias": (1.0, 0.0),
    }
    assert rates_line(optimizer, 2e-4) == "0.0002 for 6, 2e-05 for 10, weight decay 0 for 8"


def test_many_rates_are_summed_up() -> None:
    groups = [ParameterGroup(match=f"m{i}", factor=1 / 2**i) for i in range(6)]
    model = of_names(*(f"m{i}.w" for i in range(6)))
    optimizer = build_optimizer(model, TrainConfig(lr_groups=tuple(groups)), device=CPU)
    assert rates_line(optimizer, 1.0) == "1 for 1, 4 rates in between, 0.0312 for 1"


def test_a_group_that_says_nothing_is_an_error() -> None:
    with pytest.raises(UserError, match=r"lr_groups\[0\]: the group of 'a' changes nothing"):
        parameter_groups(of_names("a"), (ParameterGroup(match="a"),))


def test_groups_leave_frozen_parameters_out_and_take_shared_ones_once() -> None:
    groups = parameter_groups(Small(), PUBLISHED)
    assert [(group["factor"], group["names"]) for group in groups] == [
        (0.1, ["backbone.1.weight", "backbone.1.bias", "sampling_offsets.weight"]),
        (1.0, ["classes.weight"]),
    ]


def test_a_pattern_that_matches_nothing_is_an_error_unless_optional() -> None:
    wrong = (ParameterGroup(match="bakbone", factor=0.1),)
    with pytest.raises(UserError, match=r"train\.lr_groups\[0\]\.match: no parameter .*'bakbone'.*mean 'backbone'\?"):
        parameter_groups(Small(), wrong)
    groups = parameter_groups(Small(), (ParameterGroup(match="bakbone", factor=0.1, optional=True),))
    assert [group["factor"] for group in groups] == [1.0]


def test_a_frozen_model_cannot_be_trained() -> None:
    with pytest.raises(UserError, match="no trainable parameter"):
        build_optimizer(Small().requires_grad_(False), TrainConfig(), device=CPU)


def test_the_first_step_of_adamw() -> None:
    """AdamW's first step is lr * sign(gradient), after a decay by lr * weight_decay."""
    model = Small()
    optimizer = build_optimizer(model, TrainConfig(lr=0.1, weight_decay=0.5), device=CPU)
    set_learning_rate(optimizer, 0.2)
    before = model.classes.weight.detach().clone()
    model.classes.weight.grad = torch.tensor([[1.0, -2.0], [3.0, -4.0]])
    optimizer.step()
    expected = before * (1 - 0.2 * 0.5) - 0.2 * torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    torch.testing.assert_close(model.classes.weight.detach(), expected)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.02, 0.2])


def test_clipping_scales_to_the_limit_and_returns_the_norm_before() -> None:
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    first.grad, second.grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert float(clip_gradients([first, second, nn.Parameter(torch.zeros(1))], None)) == 5.0
    assert (float(first.grad), float(second.grad)) == (3.0, 4.0)
    assert float(clip_gradients([first, second], 0.5)) == 5.0
    assert (float(first.grad), float(second.grad)) == pytest.approx((0.3, 0.4), rel=1e-5)
