"""Probabilistic anchor assignment: priors are offered by their overlap, and kept by their losses."""

from __future__ import annotations

from dataclasses import dataclass

from codetr_kernels.assigners import paa_assign
from torch import Tensor

from codetr.assigners.contract import Assigner, Priors
from codetr.assigners.max_iou import MaxIoUAssigner
from codetr.structures import Targets


@dataclass(frozen=True)
class PAAAssigner(Assigner):
    """`assign` offers priors to ground truths; `keep` leaves those that predict theirs well.

    overlap: least IoU of what is offered; the best priors of a ground truth are offered in any case. topk: candidates
    of each level. `paa_assign` states the rule.

    Source: Kim and Lee, Probabilistic Anchor Assignment with IoU Prediction for Object Detection, section 3.2.
    """

    overlap: float = 0.1
    topk: int = 9

    def assign(self, priors: Priors, targets: Targets) -> Tensor:
        return MaxIoUAssigner(self.overlap, self.overlap, low_quality=0.0).assign(priors, targets)

    def keep(self, gt_index: Tensor, losses: Tensor, priors: Priors, targets: Targets) -> Tensor:
        """gt_index (B, P) as `assign` gives it, the ground truths of bad predictions replaced by -1.

        losses: (B, P) of each prior against the ground truth that it was offered to; no gradient flows.
        """
        return paa_assign(
            losses, gt_index, num_gts=targets.boxes.shape[1], level_sizes=priors.level_sizes, topk=self.topk
        )
