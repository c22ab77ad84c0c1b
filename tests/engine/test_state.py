"""What resuming needs: names, exact values, a memory that is not there yet, other layouts, other parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from codetr.engine.config import ParameterGroup, TrainConfig
from codetr.engine.optim import build_optimizer
from codetr.engine.state import load_training_state, training_state
from codetr.errors import UserError

CPU = torch.device("cpu")


class Small(nn.Module):
    """A convolution in another memory format, a norm with counters, and a layer known under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)
        self.same = self.head


def trained(model: Small, config: TrainConfig, steps: int = 2) -> torch.optim.Optimizer:
    optimizer = build_optimizer(model, config, device=CPU)
    for step in range(steps):
        for number, parameter in enumerate(model.parameters()):
            parameter.grad = torch.full_like(parameter, float(number + step + 1))
        optimizer.step()
    return optimizer


def save(folder: Path, optimizer: torch.optim.Optimizer, model: nn.Module | None = None) -> None:
    state = {name: value.contiguous() for name, value in training_state(optimizer, model).items()}
    safetensors.torch.save_file(state, folder / "state.safetensors")


def test_names() -> None:
    model = Small()
    assert training_state(build_optimizer(model, TrainConfig(lr_groups=()), device=CPU)) == {}
    state = training_state(trained(model, TrainConfig(lr_groups=())), model)
    parameters = ["conv.weight", "conv.bias", "norm.weight", "norm.bias", "head.weight", "head.bias"]
    counters = ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]
    memory = [f"optimizer/{name}/{key}" for name in parameters for key in ("step", "exp_avg", "exp_avg_sq")]
    assert sorted(state) == sorted([*memory, *(f"model/{name}" for name in (*parameters, *counters))])
    assert state["optimizer/conv.weight/step"].tolist() == [2.0]


def test_memory_comes_back_whatever_the_groups(tmp_path: Path) -> None:
    model = Small()
    optimizer = trained(model, TrainConfig(lr_groups=()))
    save(tmp_path, optimizer, model)
    other = Small()
    weights = {name: value.clone() for name, value in other.state_dict().items()}
    regrouped = TrainConfig(weight_decay=0.3, lr_groups=(ParameterGroup(match="head", factor=2.0),))
    fresh = build_optimizer(other, regrouped, device=CPU)
    load_training_state(tmp_path, fresh, other, sharded=False)
    expected, found = training_state(optimizer, model), training_state(fresh, other)
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert not torch.equal(weights["conv.weight"], other.conv.weight)
    assert {group["weight_decay"] for group in fresh.param_groups} == {0.3}
    assert [group["lr"] for group in fresh.param_groups] == [2e-4, 2e-4]
    moment = fresh.state[other.conv.weight]["exp_avg"]
    assert moment.is_contiguous(memory_format=torch.channels_last)


def test_weights_that_are_no_state_stay_as_they_are(tmp_path: Path) -> None:
    save(tmp_path, trained(Small(), TrainConfig(lr_groups=())))
    model = Small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_training_state(tmp_path, build_optimizer(model, TrainConfig(lr_groups=()), device=CPU), sharded=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_nothing_was_remembered_before_the_first_step(tmp_path: Path) -> None:
    save(tmp_path, build_optimizer(Small(), TrainConfig(lr_groups=()), device=CPU))
    fresh = build_optimizer(Small(), TrainConfig(lr_groups=()), device=CPU)
    load_training_state(tmp_path, fresh, sharded=False)
    assert not fresh.state


def test_memory_of_other_parameters_is_refused(tmp_path: Path) -> None:
    save(tmp_path, trained(Small(), TrainConfig(lr_groups=())))
    model = Small()
    model.head.requires_grad_(False)
    optimizer = build_optimizer(model, TrainConfig(lr_groups=()), device=CPU)
    with pytest.raises(UserError, match=r"other trainable parameters \(6 entries differ, such as optimizer/head.bias"):
        load_training_state(tmp_path, optimizer, sharded=False)
