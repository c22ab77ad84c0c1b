"""The contract of an assigner: which ground truth, if any, each prior is responsible for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from codetr_kernels.assigners import CellGrid
from torch import Tensor

from codetr.structures import Targets

NEGATIVE = -1
IGNORED = -2


@dataclass(frozen=True)
class Priors:
    """Anchors, points or proposals of a batch, level after level.

    boxes: (P, 4) shared by all images, or (B, P, 4); xyxy pixels. valid: (B, P) bool, False outside the image or where
    padded. level_sizes: number of priors of each level, their sum is P. grid: where the priors lie, if they are one a
    cell of the levels; `valid` is then what its sizes say.
    """

    boxes: Tensor
    valid: Tensor
    level_sizes: tuple[int, ...]
    grid: CellGrid | None = None

    def of_images(self) -> Tensor:
        """The boxes as (B, P, 4), a view where they are shared."""
        return self.boxes.expand(*self.valid.shape, 4)


class Assigner(ABC):
    """A rule of one-to-many assignment, over all images of a batch at once and without asking the device anything."""

    @abstractmethod
    def assign(self, priors: Priors, targets: Targets) -> Tensor:
        """gt_index (B, P) int64: the ground truth of each prior, -1 for a negative, -2 for an ignored prior.

        A prior that is not valid is ignored; an image without objects has negatives only.
        """


def matched(gt_index: Tensor, targets: Targets, *, background: int) -> tuple[Tensor, Tensor]:
    """Labels (B, P) and boxes (B, P, 4) of the assigned ground truths; `background` and 0 where there is none."""
    positive = gt_index >= 0
    index = gt_index.clamp(min=0)
    labels = targets.labels.gather(1, index).masked_fill(~positive, background)
    boxes = targets.boxes.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))
    return labels, torch.where(positive.unsqueeze(-1), boxes, torch.zeros_like(boxes))
