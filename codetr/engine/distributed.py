"""Training on several processes, started by torchrun: one rank a device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

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
    # Hosts agree among themselves on what is no matter of their devices, such as extents of tensors.
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    store = _store_of_attempt(size)
    if store is None:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield World(rank, size, chosen)
    finally:
        dist.destroy_process_group()


def _store_of_attempt(size: int) -> Any:
    """Where ranks that an agent starts again meet, without the addresses that those before them left; None at first.

    PyTorch 2.5 to 2.14 give all attempts one store: pytorch/pytorch#135712. Several agents count their attempts each
    for itself, so there they must not share the store: TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 (`engine.launch` sets it).
    """
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and os.environ.get("GROUP_WORLD_SIZE") == "1"
    if not shared or attempt == 0:
        return None
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(*address, size, is_master=False)  # type: ignore[attr-defined]
    return dist.PrefixStore(f"attempt_{attempt}", store)  # type: ignore[attr-defined]


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
