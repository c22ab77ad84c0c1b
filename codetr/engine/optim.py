"""AdamW with the published parameter groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from codetr.engine.config import ParameterGroup, TrainConfig
from codetr.errors import UserError


def factor_of(name: str, groups: Sequence[ParameterGroup]) -> float:
    """Learning-rate factor of the parameter with this dotted name: that of the first group that matches, else 1."""
    return next((group.factor for group in groups if group.match in name), 1.0)


def parameter_groups(model: nn.Module, groups: Sequence[ParameterGroup]) -> list[dict[str, Any]]:
    """Trainable parameters by learning-rate factor, each parameter once, in the model's order.

    Every group is a dictionary of `params`, `names` and `factor`. Frozen parameters are left out.

    Raises: UserError if a group that is not optional matches no parameter.
    """
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    for position, group in enumerate(groups):
        if not group.optional and not any(group.match in name for name in names):
            raise UserError(_no_match(position, group, names))
    by_factor: dict[float, tuple[list[Tensor], list[str]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameters, chosen = by_factor.setdefault(factor_of(name, groups), ([], []))
            parameters.append(parameter)
            chosen.append(name)
    return [
        {"params": parameters, "names": chosen, "factor": factor} for factor, (parameters, chosen) in by_factor.items()
    ]


def build_optimizer(model: nn.Module, config: TrainConfig, *, device: torch.device) -> torch.optim.AdamW:
    """AdamW over the parameter groups, fused on a GPU. Weight decay applies to every parameter.

    Raises: UserError if there is nothing to train, or a pattern of `lr_groups` matches nothing.
    """
    groups = parameter_groups(model, config.lr_groups)
    if not groups:
        raise UserError("train: the model has no trainable parameter: every part of it is frozen")
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=device.type == "cuda"
    )


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """What the optimizer remembers of each parameter, by the parameter's name."""
    state = optimizer.state_dict()["state"]
    return {name: state[index] for index, name in enumerate(_names(optimizer)) if index in state}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, dict[str, Any]]) -> None:
    """Take up a saved memory. Settings such as the weight decay stay those of the optimizer itself.

    Raises: UserError if the trained parameters are not the same ones.
    """
    names = _names(optimizer)
    differing = sorted(set(names) ^ set(state))
    if state and differing:
        raise UserError(
            f"the checkpoint was trained with other trainable parameters ({len(differing)} differ, such as "
            f"{differing[0]}). Resume with the spec of the run."
        )
    by_index = {index: state[name] for index, name in enumerate(names) if name in state}
    optimizer.load_state_dict({"state": by_index, "param_groups": optimizer.state_dict()["param_groups"]})


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group `lr` times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


def clip_gradients(parameters: Iterable[Tensor], limit: float | None) -> Tensor:
    """Scale all gradients down to a global L2 norm of `limit`; returns the norm before, a scalar on the device."""
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in with_gradient if parameter.grad is not None])
    if limit is not None:
        nn.utils.clip_grads_with_norm_(with_gradient, limit, norm)
    return norm


def _names(optimizer: torch.optim.Optimizer) -> list[str]:
    return [name for group in optimizer.param_groups for name in group["names"]]


def _no_match(position: int, group: ParameterGroup, names: Sequence[str]) -> str:
    parts = sorted({".".join(name.split(".")[:2]) for name in names})
    return (
        f"train.lr_groups[{position}].match: no parameter of the model has {group.match!r} in its name. "
        f"Names begin with: {', '.join(parts[:12])}. Correct the pattern, or give the group `optional: true`."
    )
