"""The contract of a base detector: a DETR variant that decodes any list of query groups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from codetr.config import Section
from codetr.structures import DecoderOutput, ImageBatch, Memory, Proposal, QueryGroup, Targets


class Base(nn.Module, ABC):
    """One DETR variant. Final classes live in `codetr/models/bases/<name>.py`.

    A subclass is built as `Variant(config, backbone=..., neck=..., num_classes=...)` and sets the attributes below.

    dim: channels of a token. num_classes: K. num_layers: decoder layers L, the factor of the heads' losses in Eq. 6.
    strides: pixels per cell of each level of `Memory`. query_width: channels that `adopt` wants, in units of `dim`.
    """

    Config: ClassVar[type[Section]]
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

    @abstractmethod
    def adopt(self, embedding: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Turn positives into this variant's query form.

        embedding: (B, M, query_width * C). boxes: (B, M, 4) cxcywh in (0, 1).
        Returns content (B, M, C), pos (B, M, C) or None, reference (B, M, R).
        """

    @abstractmethod
    def decode(self, memory: Memory, groups: Sequence[QueryGroup]) -> DecoderOutput:
        """All groups in one pass. A group attends to itself and to the groups that it `sees`, to nothing else."""
