"""Frozen parts: what is frozen, and what stands still while the rest trains."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from codetr.engine.config import TrainConfig
from codetr.engine.freezing import freeze, start_training
from codetr.engine.optim import build_optimizer
from codetr.errors import UserError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False))
        self.neck = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.neck(self.backbone(pixels)).square().mean()


def test_patterns_take_parameters_out_of_training() -> None:
    net = Net()
    assert freeze(net, ("backbone.0", "bias")) == 12 + 4 + 4 + 4
    trained = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    assert trained == ["backbone.1.weight", "neck.0.weight", "neck.1.weight"]
    assert freeze(Net(), ()) == 0


def test_a_pattern_that_matches_nothing_or_everything_is_an_error() -> None:
    with pytest.raises(
        UserError, match=r"train\.freeze\[1\]: no parameter .*'nek' in its name\. Did you mean 'neck'\?"
    ):
        freeze(Net(), ("backbone", "nek"))
    with pytest.raises(UserError, match=r"train\.freeze: backbone, neck leaves nothing to train"):
        freeze(Net(), ("backbone", "neck"))


def test_a_step_leaves_a_frozen_part_as_it_was_with_its_statistics() -> None:
    """The batch norm without parameters belongs to the part; a copy of the model, as of an average, is frozen too."""
    net = Net()
    freeze(net, ("backbone",))
    for model in (net, copy.deepcopy(net)):
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        optimizer = build_optimizer(model, TrainConfig(lr_groups=()), device=torch.device("cpu"))
        start_training(model.eval())
        model(torch.randn(2, 3, 4, 4)).backward()
        optimizer.step()
        changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
        assert changed == {name for name in before if name.startswith("neck.")}
        assert model.training and model.backbone.training


def test_ranks_wait_for_no_frozen_parameter(tmp_path: Path) -> None:
    """DDP refuses a second step if a parameter that it knows of had no gradient in the first."""
    net = Net()
    freeze(net, ("backbone",))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'ranks'}", rank=0, world_size=1)
    try:
        replica = DistributedDataParallel(net)
        start_training(replica)
        assert not net.backbone[1].training
        for _ in range(2):
            replica(torch.randn(2, 3, 4, 4)).backward()
    finally:
        dist.destroy_process_group()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in net.parameters())


def test_a_batch_norm_whose_scale_alone_is_frozen_still_follows_the_batches() -> None:
    net = Net()
    freeze(net, ("neck.1.weight",))
    start_training(net)
    assert net.neck[1].training
    freeze(net, ("neck.1.bias",))
    start_training(net)
    assert not net.neck[1].training
    assert net.backbone[1].training
