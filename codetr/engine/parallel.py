"""How the ranks hold the model: each a whole copy (DDP), or each a share of every tensor (FSDP2)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, Protocol, cast

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from codetr.engine.distributed import World

SHARD_OF_BACKBONE = 2**20
"""Parameters from which on a block of the backbone is gathered on its own."""


class Parallel(Protocol):
    """How the ranks hold a model and, if there is one, its moving average.

    called: what a training step calls; its parameters are those that the optimizer sees. sharded: whether a rank holds
    a share only, so that every rank must take part in reading or writing weights.
    """

    called: nn.Module
    sharded: bool

    def without_sync(self, *, active: bool) -> AbstractContextManager[None]:
        """Hold the averaging of gradients back, for all pieces of an accumulated batch but the last."""

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """State dictionary of the whole model or average; under sharding on the CPU, and empty but on the leader."""

    def load(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Take up a state dictionary of the whole model, given on every rank."""

    def whole(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        """The model for evaluation, where ranks differ in how often they call it."""


class Replicated:
    """Every rank has the whole model; gradients are averaged over ranks, buffers are the first rank's.

    Every trainable parameter takes part in every step, images without objects included, so nothing is searched for.
    """

    sharded = False

    def __init__(self, model: nn.Module, world: World) -> None:
        self.called = model
        if world.size > 1:
            devices = [world.device] if world.device.type == "cuda" else None
            self.called = DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)

    def without_sync(self, *, active: bool) -> AbstractContextManager[None]:
        if active and isinstance(self.called, DistributedDataParallel):
            return self.called.no_sync()
        return nullcontext()

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        return model.state_dict()

    def load(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        model.load_state_dict(weights)

    def whole(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        return nullcontext(model)


class Sharded:
    """Every rank has a share of each parameter, its gradient and its moments; a layer is gathered when it runs.

    Units are the transformer's layers and the large blocks of the backbone; all else is gathered for the whole step.
    Buffers are whole on every rank, and each rank's own. Models are changed in place; a whole copy stays on the host
    for evaluation.
    """

    sharded = True

    def __init__(self, model: nn.Module, world: World, *, average: nn.Module | None = None) -> None:
        self._world, self._template = world, copy.deepcopy(model).cpu()
        self._template.requires_grad_(False)
        mesh = init_device_mesh(world.device.type, (world.size,))
        for whole in (model, average):
            if whole is None:
                continue
            for parameter in whole.parameters():
                parameter.data = parameter.data.contiguous()  # weights that are channels-last cannot be split
            for unit in _units(whole):
                fully_shard(unit, mesh=mesh)
            fully_shard(whole, mesh=mesh)
        self.called = model

    def without_sync(self, *, active: bool) -> AbstractContextManager[None]:
        cast(FSDPModule, self.called).set_requires_gradient_sync(not active)
        return nullcontext()

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return cast("dict[str, Tensor]", get_model_state_dict(model, options=options))

    def load(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        set_model_state_dict(model, dict(weights), options=StateDictOptions(full_state_dict=True))

    @contextmanager
    def whole(self, model: nn.Module) -> Iterator[nn.Module]:
        """A whole copy on every rank, since a sharded one must be called equally often everywhere."""
        weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
        self._template.load_state_dict(weights)
        try:
            yield self._template.to(self._world.device)
        finally:
            self._template.cpu()


def distribute(
    model: nn.Module, world: World, *, how: Literal["ddp", "fsdp"], average: nn.Module | None = None
) -> Parallel:
    """Spread a model, and its moving average, over the ranks; one rank holds it as it is."""
    if how == "fsdp" and world.size > 1:
        return Sharded(model, world, average=average)
    return Replicated(model, world)


def _units(model: nn.Module) -> list[nn.Module]:
    """Layers of encoder and decoder, and the innermost large blocks of the backbone, inner ones first."""
    listed = (nn.ModuleList, nn.Sequential)
    found: dict[str, nn.Module] = {}
    for name, module in reversed(list(model.named_modules())):
        parent = model.get_submodule(name.rpartition(".")[0])
        if not isinstance(parent, listed) or any(inner.startswith(f"{name}.") for inner in found):
            continue
        size = sum(parameter.numel() for parameter in module.parameters())
        if (".backbone." in name and size >= SHARD_OF_BACKBONE) or _is_transformer_layer(name):
            found[name] = module
    return list(found.values())


def _is_transformer_layer(name: str) -> bool:
    *_, part, group, _ = ("", "", *name.split("."))
    return part in ("encoder", "decoder") and group == "layers"
