"""Assignment by the highest IoU and two thresholds (RPN, Faster-RCNN, RetinaNet).

Dimension key: B images, P priors, G ground truths.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from codetr.assigners.contract import IGNORED, NEGATIVE, Assigner, Priors
from codetr.ops.boxes import pairwise_iou
from codetr.structures import Targets

_PAIRS = 1 << 25  # IoUs held at once; the ground truths are taken in blocks of this many pairs


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

    @torch.no_grad()
    def assign(self, priors: Priors, targets: Targets) -> Tensor:
        best = targets.boxes.new_full(priors.valid.shape, -1.0)
        index = torch.zeros_like(best, dtype=torch.long)
        rescued = torch.full_like(index, NEGATIVE)
        block = max(1, _PAIRS // max(1, priors.valid.numel()))
        for start in range(0, targets.boxes.shape[1], block):
            valid = targets.valid[:, start : start + block]
            iou_BPG = pairwise_iou(priors.boxes, targets.boxes[:, start : start + block])
            iou_BPG = iou_BPG.masked_fill(~(priors.valid.unsqueeze(2) & valid.unsqueeze(1)), -1.0)
            iou, gt = iou_BPG.max(dim=2)
            index = torch.where(iou > best, gt + start, index)
            best = torch.maximum(best, iou)
            if self.low_quality is not None:
                rescued = torch.maximum(rescued, _best_priors(iou_BPG, least=self.low_quality, start=start))
        negative = torch.where(best < self.negative, NEGATIVE, IGNORED)
        gt_index = torch.where(best >= self.positive, index, negative)
        gt_index = torch.where(rescued >= 0, rescued, gt_index)
        return gt_index.masked_fill(~priors.valid, IGNORED)


def _best_priors(iou_BPG: Tensor, *, least: float, start: int) -> Tensor:
    """(B, P) the last ground truth whose best overlap, at least `least` and not 0, is with this prior; else -1."""
    top = iou_BPG.amax(dim=1, keepdim=True)
    hit = (iou_BPG == top) & (top >= least) & (top > 0)
    number = torch.arange(start, start + iou_BPG.shape[2], device=hit.device)
    return torch.where(hit, number, NEGATIVE).amax(dim=2)
