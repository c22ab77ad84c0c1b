"""Memory and speed of a training step: activations computed again, and compiled parts of the base."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
import torch._dynamo
import torch.fx.experimental._config
from torch import nn
from torch.utils.checkpoint import checkpoint

from codetr.engine.config import TrainConfig
from codetr.errors import UserError, nearest

COMPILED = ("backbone", "encoder", "decoder")
"""Names of the parts of a base that are compiled."""

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def accelerate(model: nn.Module, config: TrainConfig) -> None:
    """Make a model ready to be trained as `config.recompute` and `config.compile` say, in place.

    In evaluation mode it runs as before. Parameters, buffers and names stay as they are, and a deep copy has what its
    original has. To be called once, before the model is wrapped for several ranks.

    Raises: UserError for a pattern that no module matches, and for a model without a part that is compiled.
    """
    _recompute(model, config.recompute)
    if config.compile:
        _compile(model)


def _recompute(model: nn.Module, patterns: Sequence[str]) -> None:
    """Each outermost module whose name has a pattern in it keeps its inputs instead of its activations."""
    modules = {name: module for name, module in model.named_modules() if name and not isinstance(module, _CONTAINERS)}
    for position, pattern in enumerate(patterns):
        if not any(pattern in name for name in modules):
            raise UserError(_no_match(position, pattern, modules))
    for module in _outermost(model, lambda name: any(pattern in name for pattern in patterns)):
        _replace_forward(module, _recomputed(_forward_of(module)))


def _compile(model: nn.Module) -> None:
    """The parts of the base, each by itself, for sizes that change from batch to batch.

    Source: `torch.compile` with `dynamic=True` and without the assumption that sizes which are equal once stay so.
    """
    parts = list(_outermost(model, lambda name: name.rpartition(".")[2] in COMPILED))
    if not parts:
        raise UserError(
            f"train.compile: the model has no {', '.join(COMPILED[:-1])} or {COMPILED[-1]}; set it to false"
        )
    for part in parts:
        _replace_forward(part, _compiled(_forward_of(part)))


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def recomputed(module: nn.Module, *args: Any, **settings: Any) -> Any:
        if not (module.training and torch.is_grad_enabled()):
            return forward(module, *args, **settings)
        return checkpoint(forward, module, *args, use_reentrant=False, **settings)

    return recomputed


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    fast = torch.compile(forward, fullgraph=True, dynamic=True, options={"force_layout_optimization": True})

    def compiled(module: nn.Module, *args: Any, **settings: Any) -> Any:
        # Evaluation has sizes of its own and no gradients: graphs more than it is worth.
        if not module.training:
            return forward(module, *args, **settings)
        with _compiler_settings():
            return fast(module, *args, **settings)

    return compiled


@contextmanager
def _compiler_settings() -> Iterator[None]:
    """What the compiler assumes when a graph is made; nothing else in the process is compiled so.

    Sizes that are equal once need not stay so, or a graph would hold only for batches whose height is, say, the width.
    Numbers of the modules, such as rates of dropout, are constants; as inputs they would have every graph made twice.
    Graphs are whole: parts of the base are few enough for ranks to exchange gradients part by part, and graphs cut
    further for that purpose could hold no module that is computed again.
    """
    with (
        torch.fx.experimental._config.patch(use_duck_shape=False),  # type: ignore[attr-defined]
        torch._dynamo.config.patch(specialize_float=True, optimize_ddp=False),
    ):
        yield


def _forward_of(module: nn.Module) -> Callable[..., Any]:
    """As a function of the module and the arguments."""
    return module.forward.__func__ if isinstance(module.forward, MethodType) else type(module).forward


def _replace_forward(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Of this module alone. A method, because copies of the module bind it to themselves."""
    module.forward = MethodType(forward, module)  # type: ignore[method-assign]


def _outermost(model: nn.Module, chosen: Callable[[str], bool]) -> Iterator[nn.Module]:
    """Modules with a chosen name, each once, that lie within no other one."""
    found: list[str] = []
    for name, module in model.named_modules():  # a module precedes those within it
        within = any(name.startswith(f"{outer}.") for outer in found)
        if name and chosen(name) and not within and not isinstance(module, _CONTAINERS):
            found.append(name)
            yield module


def _no_match(position: int, pattern: str, names: Iterable[str]) -> str:
    """Names of layers are given without their numbers."""
    known = sorted({".".join(part for part in name.split(".") if not part.isdigit()) for name in names})
    close = nearest(pattern, known) or nearest(pattern.rpartition(".")[2], known)
    hint = f"did you mean {close!r}?" if close else "use a part of a name such as base.encoder.layers"
    return f"train.recompute[{position}]: no module of the model has {pattern!r} in its name; {hint}"
