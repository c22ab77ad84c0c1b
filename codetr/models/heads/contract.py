"""The contract of a one-to-many head: a detector on the encoder's pyramid that exists in training only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn

from codetr.config import Section
from codetr.structures import Detections, HeadOutput, Pyramid, Targets


class Head(nn.Module, ABC):
    """One auxiliary head. Final classes live in `codetr/models/heads/<name>.py`.

    A subclass is built as `Variant(config, dim=..., num_classes=..., strides=..., sampler=...)`: channels of the
    pyramid, K, pixels per cell of its levels, and the `PositiveSampler` that picks and pads its positives; its `stream`
    and the targets' `seeds` decide all that the head draws at random (`ops.draws`).
    has_masks: it learns masks, so that targets need them, and predicts masks.
    """

    Config: ClassVar[type[Section]]
    has_masks: ClassVar[bool] = False

    @abstractmethod
    def forward(self, pyramid: Pyramid, targets: Targets) -> HeadOutput:
        """Losses (before lambda_2 and the number of decoder layers) and the positives of every image."""

    @abstractmethod
    def predict(self, pyramid: Pyramid) -> list[Detections]:
        """The head as a detector on its own (paper Table 11): boxes in pixels of the images in the batch."""
