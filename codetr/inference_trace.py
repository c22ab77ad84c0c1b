"""One inference on shapes alone: which module does how many operations, and which parameters are read."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from codetr.models.bases.contract import Base, Wrapper
from codetr.models.collaborative import Collaborative
from codetr.structures import ImageBatch

IMAGE = (800, 1280)
"""Height and width of the image for which operations are counted, as in the papers that state theirs."""


@dataclass(frozen=True)
class Trace:
    """flops: operations by the dotted name of the innermost module, "" for those in none; a multiply-add is two.
    sampling: those of deformable attention's samples. read: how many values of each parameter are read, by its name."""

    flops: Mapping[str, int]
    sampling: int
    read: Mapping[str, int]


def _grid_sample_flops(plane: Any, grid: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Five multiply-adds for each channel of a sample: four of the bilinear sum, one of the weighted sum.

    Source: Zhu et al., Deformable DETR, arXiv 2010.04159, section 4.1 (the factor of 5 in its complexity).
    """
    return 2 * 5 * math.prod(out_shape)


_SAMPLE = torch.ops.aten.grid_sampler_2d.default
"""What deformable attention runs as on the meta device."""
FORMULAS = {_SAMPLE.overloadpacket: _grid_sample_flops}


def trace(model: Collaborative) -> Trace:
    """Run inference of a model that is on the meta device, in evaluation mode and without gradients."""
    height, width = IMAGE
    flops: dict[str, int] = defaultdict(int)
    parameters = dict(model.named_parameters())
    with torch.device("meta"), torch.no_grad():
        images = ImageBatch(
            torch.empty(1, 3, height, width), torch.empty(1, height, width, dtype=torch.bool), torch.empty(1, 2)
        )
        counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
        with _Reads(parameters) as reads, counter, _by_module(model, counter, flops):
            memory = model.base.encode(images)
            groups = model.base.propose(memory, None).groups
            model.base.decode(memory, groups)
    sampling = counter.get_flop_counts()["Global"].get(_SAMPLE.overloadpacket, 0)
    return Trace(flops, sampling, reads.counts() | _first_queries(model.base, sum(map(len, groups))))


def _first_queries(base: Base, matched: int, place: str = "base") -> dict[str, int]:
    """Values read of embeddings that have more rows than there are queries at inference (the hybrid ones of H-DETR)."""
    found: dict[str, int] = {}
    if isinstance(base, Wrapper):
        found |= _first_queries(base.inner, matched, f"{place}.inner")
    for source in base.query_source:
        embedding = getattr(base, source, None)
        if isinstance(embedding, nn.Embedding) and embedding.num_embeddings > matched:
            found[f"{place}.{source}.weight"] = matched * embedding.embedding_dim
    return found


@contextmanager
def _by_module(model: nn.Module, counter: FlopCounterMode, flops: dict[str, int]) -> Iterator[None]:
    """Add what `counter` counts to the innermost module that runs, by its dotted name; "" where none does."""
    running, seen = [""], 0

    def settle() -> None:
        nonlocal seen
        total = counter.get_total_flops()
        if total > seen:
            flops[running[-1]] += total - seen
        seen = total

    def enter(name: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            settle()
            running.append(name)

        return hook

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        settle()
        running.pop()

    handles = []
    for name, module in model.named_modules():
        handles += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave)]
    try:
        yield
        settle()
    finally:
        for handle in handles:
            handle.remove()


class _Reads(TorchDispatchMode):
    """Which rows of which parameters the operations read."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self.names = {id(parameter): name for name, parameter in parameters.items()}
        self.parameters = parameters
        self.rows: dict[str, set[int]] = defaultdict(set)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in torch.utils._pytree.arg_tree_leaves(*args, **(kwargs or {})):
            if isinstance(value, Tensor) and id(value) in self.names:
                self.rows[self.names[id(value)]].update(_rows(func, value, args))
        if func is _SAMPLE:  # torch works out its shape by going through all of its arithmetic: half of the time
            plane, grid = args[:2]
            return plane.new_empty(*plane.shape[:2], *grid.shape[1:3])
        return func(*args, **(kwargs or {}))

    def counts(self) -> dict[str, int]:
        """Values read of each parameter; those that are not read are missing."""
        found = {}
        for name, rows in self.rows.items():
            parameter = self.parameters[name]
            found[name] = len(rows) * math.prod(parameter.shape[1:]) if parameter.ndim else 1
        return found


def _rows(func: Any, parameter: Tensor, args: Any) -> Sequence[int]:
    """The rows that an operation reads: one that it selects, a slice of them, or all."""
    every = range(len(parameter) if parameter.ndim else 1)
    along_rows = len(args) > 2 and args[1] == 0
    if func is torch.ops.aten.select.int and along_rows:
        return [every[args[2]]]
    if func is torch.ops.aten.slice.Tensor and along_rows:
        return every[slice(*args[2:])]
    return every
