"""Adaptive training sample selection."""

from __future__ import annotations

from dataclasses import dataclass

from codetr_kernels.assigners import atss_assign
from torch import Tensor

from codetr.assigners.contract import Assigner, Priors
from codetr.structures import Targets


@dataclass(frozen=True)
class ATSSAssigner(Assigner):
    """Candidates are the nearest priors of each level; their IoU's statistics give each ground truth its threshold.

    topk: candidates of each level, by distance of the centres, equal distances by rising index. margin: pixels that the
    centre of a positive lies inside its ground truth. `atss_assign` states the rule.

    Source: Zhang et al., Bridging the Gap Between Anchor-based and Anchor-free Detection via ATSS, Algorithm 1.
    """

    topk: int = 9
    margin: float = 0.01

    def assign(self, priors: Priors, targets: Targets) -> Tensor:
        return atss_assign(
            priors.boxes,
            priors.valid,
            targets.boxes,
            targets.valid,
            level_sizes=priors.level_sizes,
            topk=self.topk,
            margin=self.margin,
            grid=priors.grid,
        )
