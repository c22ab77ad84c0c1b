"""What resuming needs beside the weights, as one flat mapping of tensors."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load

from codetr.errors import UserError


def training_state(optimizer: torch.optim.Optimizer, model: nn.Module | None = None) -> dict[str, Tensor]:
    """The optimizer's memory and, of a model that is not shipped itself, its weights; by name, sharing their storage.

    Names are `optimizer/<parameter>/<key>` and `model/<parameter or buffer>`; numbers are vectors of one. Before the
    first step the optimizer remembers nothing. Random numbers are no state: those of a step follow from its number.
    """
    found = {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                found[f"optimizer/{name}/{key}"] = value
    if model is not None:
        once = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
        found |= {f"model/{name}": value for name, value in model.state_dict().items() if name in once}
    return {name: value.reshape(1) if value.ndim == 0 else value for name, value in found.items()}


def load_training_state(
    folder: Path, optimizer: torch.optim.Optimizer, model: nn.Module | None = None, *, sharded: bool
) -> None:
    """Take up a state from the .safetensors files of a folder, however many ranks wrote it, whole or in shares.

    sharded: every rank holds shares and calls this. Settings such as the weight decay stay the optimizer's own.
    Raises: UserError if the trained parameters are not the same ones.
    """
    reader = HuggingFaceStorageReader(str(folder))
    stored = set(reader.read_metadata().state_dict_metadata)
    if any(name.startswith("optimizer/") for name in stored):
        _fill(optimizer)
    state = training_state(optimizer, model)
    differing = sorted(stored ^ set(state))
    if differing:
        raise UserError(
            f"{folder}: the checkpoint was trained with other trainable parameters ({len(differing)} entries differ, "
            f"such as {differing[0]}). Resume with the spec of the run."
        )
    if not state:
        return
    with warnings.catch_warnings():  # reading alone is what is meant
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(state, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=not sharded)


def _fill(optimizer: torch.optim.Optimizer) -> None:
    """Make the optimizer's memory, which it else makes in its first step; parameters stay as they are."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
