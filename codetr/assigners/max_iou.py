"""Assignment by the highest IoU and two thresholds (RPN, Faster-RCNN, RetinaNet)."""

from __future__ import annotations

from dataclasses import dataclass

from codetr_kernels.assigners import max_iou_assign
from torch import Tensor

from codetr.assigners.contract import Assigner, Priors
from codetr.structures import Targets


@dataclass(frozen=True)
class MaxIoUAssigner(Assigner):
    """A prior belongs to the ground truth that it overlaps most, if it does so enough.

    positive: least IoU of a positive. negative: below it a prior is negative; between the two it is ignored.
    low_quality: if set, the priors that overlap a ground truth most become its positives too, all of them where several
    are equal, provided that they reach this IoU; of several such ground truths the last one counts.

    Source: Ren et al., Faster R-CNN, section 3.1.2.
    """

    positive: float
    negative: float
    low_quality: float | None = None

    def assign(self, priors: Priors, targets: Targets) -> Tensor:
        return max_iou_assign(
            priors.boxes,
            priors.valid,
            targets.boxes,
            targets.valid,
            positive=self.positive,
            negative=self.negative,
            low_quality=self.low_quality,
        )
