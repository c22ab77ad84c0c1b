"""Training on several processes, started by torchrun: one rank a device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from codetr.errors import UserError


@dataclass(frozen=True)
class World:
    """Who this process is. device: where its model lives."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """True for the one rank that writes files and speaks."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Mean over ranks; the values themselves with one rank."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.size

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in order of rank, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def from_leader(self, value: Any) -> Any:
        """The leader's value, on every rank."""
        return self.gather(value)[0]


@contextmanager
def world(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, or be alone.

    device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`. Raises: UserError if it is not there.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    chosen = choose_device(device, local_rank=int(os.environ.get("LOCAL_RANK", "0")) if size > 1 else None)
    if size == 1 or dist.is_initialized():
        yield World(rank, size, chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(rank, size, chosen)
    finally:
        dist.destroy_process_group()


def choose_device(name: str, *, local_rank: int | None = None) -> torch.device:
    """The device of a `train.device` setting; with several ranks a machine, each takes the GPU of its own number."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"train.device: {name!r} is no device. Use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise UserError(f"train.device: {name!r} is not supported. Use auto, cpu, cuda or cuda:N.")
    index = local_rank if local_rank is not None else device.index or 0
    if index >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(f"train.device: {device} asked for GPU {index}, but PyTorch sees {count}. Use auto or cpu.")
    return torch.device("cuda", index)


def replicated(model: nn.Module, world: World) -> nn.Module:
    """The model with gradients averaged over ranks and the first rank's buffers; the model itself with one rank.

    Every trainable parameter takes part in every step, images without objects included, so nothing is searched for.
    """
    if world.size == 1:
        return model
    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


def without_sync(model: nn.Module, *, active: bool) -> AbstractContextManager[None]:
    """Hold the averaging of gradients back, for all pieces of an accumulated batch but the last."""
    if active and isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return nullcontext()
