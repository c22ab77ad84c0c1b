"""AdamW with groups of parameters that have rates and weight decays of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from codetr.engine.config import ParameterGroup, TrainConfig
from codetr.engine.layer_decay import layer_scales
from codetr.engine.patterns import hint, matching
from codetr.errors import UserError

SHOWN_RATES = 4


def parameter_groups(
    model: nn.Module, groups: Sequence[ParameterGroup], *, layer_decay: float | None = None
) -> list[dict[str, Any]]:
    """Trainable parameters by learning-rate factor and weight decay, each parameter once, in the model's order.

    Every group is a dictionary of `params`, `names` and `factor`, and `weight_decay` if that is not the common one.
    Frozen parameters are left out. layer_decay: see `layer_scales`, whose factors come on top of those of the groups.

    Raises: UserError if a group has no effect: it says nothing, or is not optional and matches no parameter.
    """
    members = [matching(model, group.match) for group in groups]
    for position, (group, found) in enumerate(zip(groups, members, strict=True)):
        _check_effect(model, position, group, found)
    scales = {} if layer_decay is None else layer_scales(model, layer_decay)
    divided: dict[tuple[float, float | None], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        own = [group for group, found in zip(groups, members, strict=True) if parameter in found]
        factor = next((group.factor for group in own if group.factor is not None), 1.0) * scales.get(parameter, 1.0)
        decay = next((group.weight_decay for group in own if group.weight_decay is not None), None)
        entry = divided.setdefault((factor, decay), {"params": [], "names": [], "factor": factor})
        entry["params"].append(parameter)
        entry["names"].append(name)
        if decay is not None:
            entry["weight_decay"] = decay
    return list(divided.values())


def build_optimizer(model: nn.Module, config: TrainConfig, *, device: torch.device) -> torch.optim.AdamW:
    """AdamW over the parameter groups, fused on a GPU. Without groups, weight decay applies to every parameter.

    Raises: UserError if there is nothing to train, or a group of `lr_groups` has no effect.
    """
    groups = parameter_groups(model, config.lr_groups, layer_decay=config.layer_decay)
    if not groups:
        raise UserError("train: the model has no trainable parameter: every part of it is frozen")
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=device.type == "cuda"
    )


def rates_line(optimizer: torch.optim.Optimizer, lr: float) -> str:
    """For people: the learning rates at a base rate of `lr`, and the weight decays other than the common one."""
    rates: Counter[float] = Counter()
    decays: Counter[float] = Counter()
    for group in optimizer.param_groups:
        size = sum(parameter.numel() for parameter in group["params"])
        rates[group["factor"]] += size
        if group["weight_decay"] != optimizer.defaults["weight_decay"]:
            decays[group["weight_decay"]] += size
    parts = [f"{lr * factor:.3g} for {_amount(rates[factor])}" for factor in sorted(rates, reverse=True)]
    if len(parts) > SHOWN_RATES:
        parts = [parts[0], f"{len(parts) - 2} rates in between", parts[-1]]
    parts += [f"weight decay {decay:g} for {_amount(size)}" for decay, size in sorted(decays.items())]
    return ", ".join(parts)


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
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _names(optimizer: torch.optim.Optimizer) -> list[str]:
    return [name for group in optimizer.param_groups for name in group["names"]]


def _check_effect(model: nn.Module, position: int, group: ParameterGroup, found: set[nn.Parameter]) -> None:
    place = f"train.lr_groups[{position}]"
    if group.factor is None and group.weight_decay is None:
        raise UserError(f"{place}: the group of {group.match!r} changes nothing. Give it a factor or a weight_decay.")
    if not found and not group.optional:
        raise UserError(
            f"{place}.match: no parameter of the model has {group.match!r} in its name. {hint(model, group.match)} "
            "Correct the pattern, or give the group `optional: true`."
        )


def _amount(count: int) -> str:
    return f"{count / 1e6:.3g} M" if count >= 1e6 else f"{count / 1e3:.3g} k" if count >= 1e3 else str(count)
