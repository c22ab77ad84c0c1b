"""Parameter groups by name, and the optimizer's memory by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from codetr.engine.config import ParameterGroup, TrainConfig
from codetr.engine.optim import (
    build_optimizer,
    clip_gradients,
    factor_of,
    load_optimizer_state,
    optimizer_state,
    parameter_groups,
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


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("base.backbone.net.conv1.weight", 0.1),
        ("base.decoder.layers.0.cross.sampling_offsets.bias", 0.1),
        ("base.reference_points.weight", 0.1),
        ("base.decoder.layers.0.norm.weight", 1.0),
        ("heads.atss.classify.weight", 1.0),
    ],
)
def test_published_factors(name: str, factor: float) -> None:
    assert factor_of(name, PUBLISHED) == factor


def test_the_first_match_wins() -> None:
    groups = (ParameterGroup(match="b.c", factor=0.5), ParameterGroup(match="b", factor=0.2))
    assert [factor_of(name, groups) for name in ("a.b.c", "a.b.d", "a.c")] == [0.5, 0.2, 1.0]


def test_groups_leave_frozen_parameters_out_and_take_shared_ones_once() -> None:
    groups = parameter_groups(Small(), PUBLISHED)
    assert [(group["factor"], group["names"]) for group in groups] == [
        (0.1, ["backbone.1.weight", "backbone.1.bias", "sampling_offsets.weight"]),
        (1.0, ["classes.weight"]),
    ]


def test_a_pattern_that_matches_nothing_is_an_error_unless_optional() -> None:
    wrong = (ParameterGroup(match="bakbone", factor=0.1),)
    with pytest.raises(UserError, match=r"train\.lr_groups\[0\]\.match: no parameter .*'bakbone'.*backbone\.0"):
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


def test_memory_is_kept_by_name_whatever_the_grouping() -> None:
    model = Small()
    optimizer = build_optimizer(model, TrainConfig(), device=CPU)
    for value, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
        parameter.grad = torch.full_like(parameter, float(value + 1))
    optimizer.step()
    regrouped = TrainConfig(weight_decay=0.3, lr_groups=(ParameterGroup(match="sampling", factor=2.0),))
    other = build_optimizer(model, regrouped, device=CPU)
    assert other.param_groups[0]["names"] != optimizer.param_groups[0]["names"]
    load_optimizer_state(other, optimizer_state(optimizer))
    assert torch.equal(other.state[model.classes.weight]["exp_avg"], optimizer.state[model.classes.weight]["exp_avg"])
    assert {group["weight_decay"] for group in other.param_groups} == {0.3}


def test_memory_of_other_parameters_is_refused() -> None:
    model = Small()
    optimizer = build_optimizer(model, TrainConfig(), device=CPU)
    model.classes.weight.grad = torch.ones(2, 2)
    optimizer.step()
    state = optimizer_state(optimizer)
    with pytest.raises(UserError, match="other trainable parameters"):
        load_optimizer_state(build_optimizer(nn.Linear(2, 2), TrainConfig(lr_groups=()), device=CPU), state)


def test_clipping_scales_to_the_limit_and_returns_the_norm_before() -> None:
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    first.grad, second.grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert float(clip_gradients([first, second, nn.Parameter(torch.zeros(1))], None)) == 5.0
    assert (float(first.grad), float(second.grad)) == (3.0, 4.0)
    assert float(clip_gradients([first, second], 0.5)) == 5.0
    assert (float(first.grad), float(second.grad)) == pytest.approx((0.3, 0.4), rel=1e-5)
