"""Steps on fake tensors, which have shapes and a device but no numbers, under a watch for what concerns the host.

Whatever needs a number fails, and so does what moves a tensor between host and device. The operators of
`codetr_kernels` and `torchvision` count as what they declare.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from small import batch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from codetr.models.collaborative import Collaborative

BACKWARD_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Autograd needs a device that is there: without a GPU a step back shows what depends on numbers, and no copies."""


class HostAccess(Exception):
    """A tensor of host values, or a copy between host and device."""


class NoHost(TorchDispatchMode):
    """Refuses operators whose tensors are on several devices, and tensors made from host values."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.lift_fresh.default:
            raise HostAccess("a tensor is made from host values")
        found = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        if len(devices) > 1:
            raise HostAccess(f"{func} has tensors on {' and '.join(sorted(devices))}")
        self.operators.add(str(func))
        return found


class Fakes:
    """Tensors without numbers in place of real ones, on a device that need not be there. To be made in the mode."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._made: dict[int, tuple[Tensor, Tensor]] = {}

    def tensor(self, real: Tensor) -> Tensor:
        """The same one for the same tensor."""
        if id(real) not in self._made:
            fake = torch.empty_strided(real.shape, real.stride(), dtype=real.dtype, device=self.device)
            if isinstance(real, nn.Parameter):
                fake = nn.Parameter(fake, requires_grad=real.requires_grad)
            self._made[id(real)] = real, fake
        return self._made[id(real)][1]

    def model(self, real: nn.Module) -> None:
        """Every parameter and buffer, in place."""
        for module in real.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        tensors[name] = self.tensor(tensor)

    def door(self, real: Any) -> Any:
        fields = {field.name: getattr(real, field.name) for field in dataclasses.fields(real)}
        return dataclasses.replace(real, **{k: self.tensor(v) for k, v in fields.items() if isinstance(v, Tensor)})


@dataclass(frozen=True)
class FakeStep:
    """What a step gave: its losses, and the names of the operators that ran."""

    losses: dict[str, Tensor]
    operators: set[str]


def fake_step(
    model: Collaborative, *, device: str = "cuda", backward: bool = False, masks: bool = False, kernels: bool = True
) -> FakeStep:
    """Of a model, whose parameters become fakes. masks: the objects have some. kernels: as on a GPU that has them.

    The images have seeds, and classes that count in a federated loss, as in training.
    """
    images, targets = batch(masks=masks)
    number = len(targets.counts)
    counted = torch.ones(number, model.num_classes, dtype=torch.bool)
    targets = dataclasses.replace(targets, seeds=torch.arange(number), counted_classes=counted)
    fakes, watch = Fakes(device), NoHost()
    with patch("codetr_kernels.backend._chosen", lambda *device: kernels), FakeTensorMode():
        fakes.model(model)
        given = fakes.door(images), fakes.door(targets)
        with watch:
            losses = model.train()(*given)
            if backward:
                torch.stack(list(losses.values())).sum().backward()
    return FakeStep(losses, watch.operators)
