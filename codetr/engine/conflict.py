"""Do the branches pull the encoder in one direction? Their gradients with respect to its output, compared.

The branches are `detr`, everything that reads the encoder's output itself (the decoder with all of its groups, and
two-stage proposals), and each head, everything that reads it through the pyramid. A positive query belongs to both:
what it attends to in the decoder counts as `detr`, the feature that its head gave it counts as that head's. So the
branches' gradients add up to the gradient of the step's loss, which the encoder gets. Padded tokens are included, as
they have a part in that too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations_with_replacement
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call

from codetr.ops.boxes import widened
from codetr.structures import Memory, Pyramid

DETR = "detr"
Kept: TypeAlias = "list[Tensor | None]"


class BranchGradients:
    """Keeps what the backward pass sends through each branch; to be told of the branches before it, asked after it.

    The backward pass stays as it is, bit for bit. A head's gradient is kept where the head reads the pyramid, and
    brought to the encoder's tokens by the adapter's vector-Jacobian product: the adapter runs once more, nothing else.

    adapter: from `Memory` to `Pyramid`, or None without heads. Its parameters may be sharded over ranks: then they are
    gathered, by all ranks together.
    """

    def __init__(self, adapter: nn.Module | None) -> None:
        self._adapter = adapter
        self._memory: Memory | None = None
        self._kept: dict[str, Kept] = {}

    def watch_decoder(self, memory: Memory) -> None:
        """Nothing is measured if no gradient reaches the encoder, because it is frozen."""
        self._kept.clear()
        self._memory = memory if memory.tokens.requires_grad else None
        if self._memory is not None:
            self._kept[DETR] = _keep([memory.tokens])

    def watch_head(self, name: str, pyramid: Pyramid) -> None:
        if self._memory is not None:
            self._kept[name] = _keep(pyramid.maps)

    def products(self) -> dict[str, Tensor]:
        """Scalar products of the branches' gradients (B, S, C), `<branch>.<branch>`; then forgets them.

        Products of several batches may be added up: they are those of the gradients side by side.
        """
        if self._memory is None:
            return {}
        gradients = {DETR: self._of_tokens(), **self._of_heads()}
        self._memory = None
        self._kept.clear()
        return {
            f"{one}.{other}": (gradients[one] * gradients[other]).sum()
            for one, other in combinations_with_replacement(gradients, 2)
        }

    def _of_tokens(self) -> Tensor:
        assert self._memory is not None
        return _filled(self._kept[DETR], [widened(self._memory.tokens.detach())])[0]

    def _of_heads(self) -> dict[str, Tensor]:
        """Of each head, (B, S, C)."""
        heads = {name: kept for name, kept in self._kept.items() if name != DETR}
        if self._adapter is None or self._memory is None or not heads:
            return {}
        tokens = widened(self._memory.tokens.detach()).requires_grad_()
        weights = {name: _whole(weight) for name, weight in self._adapter.named_parameters()}
        with torch.enable_grad(), torch.autocast(tokens.device.type, enabled=False):
            maps = functional_call(self._adapter, weights, (replace(self._memory, tokens=tokens),)).maps
            return {
                name: torch.autograd.grad(maps, tokens, _filled(kept, maps), retain_graph=True)[0]
                for name, kept in heads.items()
            }


def norms_and_cosines(products: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """L2 norms by branch, and cosines by pair of branches, of gradients whose products are given as above.

    Left out: what is not finite, and the cosine of a pair of which one is zero.
    """
    norms: dict[str, float] = {}
    cosines: dict[str, float] = {}
    for pair, value in products.items():
        one, other = pair.split(".")
        if one == other and math.isfinite(value):
            norms[one] = math.sqrt(max(value, 0.0))
    for pair, value in products.items():
        one, other = pair.split(".")
        length = norms.get(one, 0.0) * norms.get(other, 0.0)
        if one != other and length > 0 and math.isfinite(value):
            cosines[pair] = value / length
    return norms, cosines


def _keep(tensors: Sequence[Tensor]) -> Kept:
    """A list that the backward pass fills with the gradients of the tensors; None where there is none."""
    kept: Kept = [None] * len(tensors)
    for index, tensor in enumerate(tensors):
        if tensor.requires_grad:
            tensor.register_hook(partial(_store, kept, index))
    return kept


def _store(kept: Kept, index: int, gradient: Tensor) -> None:
    kept[index] = gradient.detach()


def _filled(kept: Kept, like: Sequence[Tensor]) -> list[Tensor]:
    """Gradients in the precision of the tensors that they belong to, zero where there is none."""
    pairs = zip(kept, like, strict=True)
    return [torch.zeros_like(tensor) if grad is None else grad.to(tensor.dtype) for grad, tensor in pairs]


def _whole(weight: Tensor) -> Tensor:
    """A parameter's values, gathered from all ranks if each holds a part of them (a `DTensor`)."""
    gather = getattr(weight, "full_tensor", None)
    return weight.detach() if gather is None else gather().detach()
