"""Which tensors of a detector grow with the number of classes, and which of their rows are a class's.

Found, not written down: of two models without data, of K and of K + 1 classes, the shapes are compared. A tensor with
f K + c rows has f for each class and c that are no class's and come after them: `no object` of a softmax, `unknown` of
a label embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from codetr.models.build import ModelSpec, build
from codetr.models.collaborative import Collaborative
from codetr.models.parts.dense_head import DenseHead
from codetr.models.parts.roi_stage import RoiStage
from codetr.models.parts.two_stage import TokenProposals

Order = Literal["by class", "by prior", "unknown"]


@dataclass(frozen=True)
class ClassRows:
    """The rows of a tensor, counted along one of its axes.

    each: f. further: c. order: of several rows of a class; `by class`: the rows of a class lie together; `by prior`: of
    each prior of a cell the classes lie together. any_object_first: row 0 stands for any object, never for class 0.
    """

    axis: int
    each: int
    further: int
    order: Order
    any_object_first: bool = False

    def size(self, num_classes: int) -> int:
        """How many rows there are."""
        return self.each * num_classes + self.further

    def pairs(self, matched: Mapping[int, int], num_classes: int, their_classes: int) -> list[tuple[int, int]]:
        """Rows here and there that mean the same.

        matched: for classes of this model, the index of the same class in the other one; both have a number of classes.
        """
        if self.order == "unknown":
            return []
        if self.any_object_first:
            matched = {own: other for own, other in matched.items() if own and other} | {0: 0}
        found: list[tuple[int, int]] = []
        for own, other in matched.items():
            here, there = self._of_class(own, num_classes), self._of_class(other, their_classes)
            found += zip(here, there, strict=True)
        here, there = self._of_none(num_classes), self._of_none(their_classes)
        return [*found, *zip(here, there, strict=True)]

    def _of_class(self, index: int, num_classes: int) -> list[int]:
        if self.order == "by prior":
            return [prior * num_classes + index for prior in range(self.each)]
        return [index * self.each + row for row in range(self.each)]

    def _of_none(self, num_classes: int) -> list[int]:
        return list(range(self.each * num_classes, self.size(num_classes)))


def class_rows(model: Collaborative, spec: ModelSpec) -> dict[str, ClassRows]:
    """The tensors of the model's state dictionary that grow with the number of classes, by name.

    spec: of which the model was built.
    """
    with torch.device("meta"):
        larger = build(spec, model.num_classes + 1, pretrained=False).state_dict()
    any_object = _proposal_heads(model) if model.base.any_object_first else set()
    found = {}
    for name, tensor in model.state_dict().items():
        for axis in _differing(tensor, larger[name]):
            each = larger[name].shape[axis] - tensor.shape[axis]
            further = tensor.shape[axis] - each * model.num_classes
            order = "by class" if each == 1 else _order(model, name)
            found[name] = ClassRows(axis, each, further, order, any_object_first=name in any_object)
    return found


def _differing(tensor: Tensor, larger: Tensor) -> list[int]:
    """The axis along which the tensor grows; there is one at most."""
    axes = [axis for axis, (a, b) in enumerate(zip(tensor.shape, larger.shape, strict=True)) if a != b]
    assert len(axes) < 2, "a tensor grows with the square of the number of classes"
    return axes


def _order(model: nn.Module, name: str) -> Order:
    """Of a layer of the heads of this package, or of one that is made of their parts."""
    path, _, _ = name.rpartition(".")
    owner, _, layer = path.rpartition(".")
    module = model.get_submodule(owner)
    if isinstance(module, DenseHead) and layer == "cls":
        return "by prior"
    if isinstance(module, RoiStage) and layer == "deltas":
        return "by class"
    return "unknown"


def _proposal_heads(model: nn.Module) -> set[str]:
    """Names of the tensors of class heads of two-stage proposals."""
    return {
        f"{place}.heads.classes.{name}"
        for place, module in model.named_modules()
        if isinstance(module, TokenProposals)
        for name, _ in module.heads.classes.named_parameters()
    }
