"""The contract of a base detector: a DETR variant that decodes any list of query groups."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn

from codetr.config import Section
from codetr.structures import DecoderOutput, ImageBatch, Memory, Proposal, QueryGroup, Targets


class Base(nn.Module, ABC):
    """One DETR variant. Final classes live in `codetr/models/bases/<name>.py`.

    A subclass is built as `Variant(config, backbone=..., neck=..., num_classes=...)` and sets the attributes below.

    dim: channels of a token. num_classes: K. num_layers: decoder layers L, the factor of the heads' losses in Eq. 6.
    strides: pixels per cell of each level of `Memory`. query_width: channels that `adopt` wants, in units of `dim`.
    classification: how logits become scores; `softmax` has K + 1 of them, the last for no object.
    any_object_first: row 0 of the class head of the proposals stands for any object, and the other rows for nothing.
    query_source: names of the submodules of which a copy makes another group like `match` (`propose_from`): what is
    learned for each query, and the proposal heads of a two-stage variant. One that is None or missing is passed over.
    """

    Config: ClassVar[type[Section]]
    query_source: ClassVar[tuple[str, ...]] = ()
    classification: Literal["sigmoid", "softmax"] = "sigmoid"
    any_object_first: bool = False
    dim: int
    num_classes: int
    num_layers: int
    strides: tuple[int, ...]
    query_width: int

    @abstractmethod
    def encode(self, images: ImageBatch) -> Memory:
        """Backbone, neck and encoder."""

    @abstractmethod
    def propose(self, memory: Memory, targets: Targets | None) -> Proposal:
        """The variant's own query groups, `match` first; without targets (inference) that group alone."""

    def propose_from(self, memory: Memory, source: Mapping[str, nn.Module]) -> Proposal:
        """`match` alone, as these modules make it in the place of the base's own of the same names (`query_source`)."""
        view = copy.copy(self)
        view.__dict__["_modules"] = {**self._modules, **source}
        return view.propose(memory, None)

    @abstractmethod
    def adopt(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Turn positives into this variant's query form.

        embedding: (B, M, query_width * C). boxes: (B, M, 4) cxcywh in (0, 1).
        Returns content (B, M, C), pos (B, M, C) or None, reference (B, M, R).
        """

    @abstractmethod
    def decode(self, memory: Memory, groups: Sequence[QueryGroup]) -> DecoderOutput:
        """All groups in one pass. A group attends to itself and to the groups that it `sees`, to nothing else."""


class Wrapper(Base):
    """A base that changes the groups of another, `inner`, and leaves all else to it."""

    inner: Base

    def __init__(self, inner: Base) -> None:
        super().__init__()
        self.inner = inner
        self.dim, self.strides, self.num_classes = inner.dim, inner.strides, inner.num_classes
        self.num_layers, self.query_width = inner.num_layers, inner.query_width
        self.classification, self.any_object_first = inner.classification, inner.any_object_first

    def encode(self, images: ImageBatch) -> Memory:
        return self.inner.encode(images)

    def adopt(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        return self.inner.adopt(embedding, boxes)

    def decode(self, memory: Memory, groups: Sequence[QueryGroup]) -> DecoderOutput:
        return self.inner.decode(memory, groups)
