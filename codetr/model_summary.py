"""What a model consists of: its modules with their parameters, the operations of inference, and what only training has.

Nothing is computed: the model is built on the meta device, and inference runs there on shapes alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import nn

from codetr.inference_trace import Trace, trace
from codetr.models.bases.contract import Wrapper
from codetr.models.build import ModelSpec, build
from codetr.models.collaborative import Collaborative

_LEVELS = 3
_Placed: TypeAlias = "list[tuple[str, nn.Module]]"


@dataclass(frozen=True)
class Part:
    """A module, or the modules of a list taken together.

    kind: its class, `6 x CLASS` for a list. depth: 0 for the parts of the model. parameters: all; trained: those with a
    gradient in training; training_only: those that inference never reads. flops: of inference on one image, a
    multiply-add counted as two; those of parts below included.
    """

    name: str
    kind: str
    depth: int
    parameters: int
    trained: int
    training_only: int
    flops: int


@dataclass(frozen=True)
class ModelSummary:
    """parts: in the order of the model, each followed by those in it. sampling: the share of `flops` in deformable
    attention's samples, which most published figures leave out."""

    parts: tuple[Part, ...]
    total: Part
    sampling: int
    num_classes: int


def summarise(spec: ModelSpec, *, num_classes: int) -> ModelSummary:
    """The parts of a model, to the third level."""
    with torch.device("meta"):
        model = build(spec, num_classes, pretrained=False)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    traced = trace(model.requires_grad_(False).eval())
    counts = _Counts(model, trained, traced)
    parts = [part for label, place, module in _top(model) for part in counts.tree(label, place, module)]
    whole = counts.of("", [model], [""], depth=0)
    rest = _without(whole, [part for part in parts if part.depth == 0])
    if rest.parameters or rest.flops:
        parts.append(rest)
    return ModelSummary(tuple(parts), whole, traced.sampling, num_classes)


def _without(whole: Part, parts: list[Part]) -> Part:
    """What a base of one's own may have or do outside of its modules."""
    names = ("parameters", "trained", "training_only", "flops")
    left = {name: getattr(whole, name) - sum(getattr(part, name) for part in parts) for name in names}
    return replace(whole, name="base", kind="itself", **left)


class _Counts:
    """Sums over modules by the prefix of their dotted names."""

    def __init__(self, model: nn.Module, trained: set[str], traced: Trace) -> None:
        self.parameters = dict(model.named_parameters())
        self.trained, self.read, self.flops = trained, traced.read, traced.flops

    def of(self, label: str, alike: list[nn.Module], places: Sequence[str], *, depth: int) -> Part:
        """Modules of one class, at these dotted names, as one part."""
        inside = {key: p for key, p in self.parameters.items() if any(_within(key, place) for place in places)}
        kind = type(alike[0]).__name__
        return Part(
            name=label,
            kind=f"{len(alike)} x {kind}" if len(alike) > 1 else kind,
            depth=depth,
            parameters=sum(p.numel() for p in inside.values()),
            trained=sum(p.numel() for key, p in inside.items() if key in self.trained),
            training_only=sum(p.numel() - self.read.get(key, 0) for key, p in inside.items()),
            flops=sum(n for key, n in self.flops.items() if any(_within(key, place) for place in places)),
        )

    def tree(self, label: str, place: str, module: nn.Module) -> Iterator[Part]:
        """A part of the model and the parts in it."""
        yield from self._below(label, _items(place, module), depth=0)

    def _below(self, label: str, placed: _Placed, *, depth: int) -> Iterator[Part]:
        places, alike = [place for place, _ in placed], [module for _, module in placed]
        part = self.of(label, alike, places, depth=depth)
        if part.parameters == 0 and part.flops == 0:
            return
        yield part
        if depth + 1 == _LEVELS:
            return
        for name, children in _children(alike, places):
            yield from self._below(name, children, depth=depth + 1)


def _children(alike: list[nn.Module], places: list[str]) -> list[tuple[str, _Placed]]:
    """The children with parameters of modules of one class, by name.

    Items of a sequence, whose names say nothing, are left out; so is an only child that has nothing in it, and one that
    has is passed over for that.
    """
    found: dict[str, _Placed] = defaultdict(list)
    for module, above in zip(alike, places, strict=True):
        for name, child in module.named_children():
            if not name.isdigit() and any(True for _ in child.parameters()):
                found[name] += _items(f"{above}.{name}", child)
    groups = list(found.items())
    if len(groups) != 1 or any(module._parameters for module in alike):
        return groups
    places, inside = [place for place, _ in groups[0][1]], [module for _, module in groups[0][1]]
    if not any(list(module.children()) for module in inside):
        return []
    return _children(inside, places) if len(inside) == len(alike) else groups


def _items(place: str, module: nn.Module) -> _Placed:
    """The items of a list of one class, or the module itself, each with its dotted name."""
    items = list(module.named_children())
    if isinstance(module, nn.ModuleList) and len({type(item) for _, item in items}) == 1:
        return [(f"{place}.{index}", item) for index, item in items]
    return [(place, module)]


def _top(model: Collaborative) -> Iterator[tuple[str, str, nn.Module]]:
    """The parts of the base, whatever it is wrapped in, then those of training: label, dotted name, module."""
    base, place = model.base, "base"
    while isinstance(base, Wrapper):
        yield from ((name, f"{place}.{name}", child) for name, child in base.named_children() if name != "inner")
        base, place = base.inner, f"{place}.inner"
    yield from ((name, f"{place}.{name}", child) for name, child in base.named_children())
    if model.adapter is not None:
        yield "adapter", "adapter", model.adapter
    for kind, group in (("heads", model.heads), ("positive_queries", model.positive_queries)):
        yield from ((f"{kind}.{name}", f"{kind}.{name}", module) for name, module in group.items())


def _within(key: str, place: str) -> bool:
    return place == "" or key == place or key.startswith(f"{place}.")
