"""Adaptive training sample selection.

Dimension key: B images, P priors, G ground truths, T candidates of a ground truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from codetr.assigners.contract import IGNORED, NEGATIVE, Assigner, Priors
from codetr.ops.boxes import aligned_iou
from codetr.structures import Targets


@dataclass(frozen=True)
class ATSSAssigner(Assigner):
    """Candidates are the nearest priors of each level; their IoU's statistics give each ground truth its threshold.

    topk: candidates of each level, by distance of the centres, equal distances by rising index. margin: pixels.
    A candidate is positive if its IoU reaches mean plus standard deviation (unbiased) of the candidates' and its centre
    lies more than `margin` inside the ground truth. A prior that several ground truths claim goes to the one of highest
    IoU, of equals to the first.

    Source: Zhang et al., Bridging the Gap Between Anchor-based and Anchor-free Detection via ATSS, Algorithm 1.
    """

    topk: int = 9
    margin: float = 0.01

    @torch.no_grad()
    def assign(self, priors: Priors, targets: Targets) -> Tensor:
        boxes_BP = priors.of_images()
        num_gts = targets.boxes.shape[1]
        candidate_BGT = self._candidates(boxes_BP, priors, targets)
        flat = candidate_BGT.flatten(1)
        counted_BGT = priors.valid.gather(1, flat).view_as(candidate_BGT) & targets.valid.unsqueeze(2)
        box_BGT = boxes_BP.gather(1, flat.unsqueeze(-1).expand(-1, -1, 4)).unflatten(1, candidate_BGT.shape[1:])
        gt_BG1 = targets.boxes.unsqueeze(2)
        iou_BGT = aligned_iou(box_BGT, gt_BG1)
        reached = iou_BGT >= _threshold(iou_BGT, counted_BGT).unsqueeze(2)
        positive_BGT = counted_BGT & reached & (_depth(box_BGT, gt_BG1) > self.margin)

        claim = torch.where(positive_BGT, iou_BGT, -1.0).flatten(1)
        best_BP = claim.new_full(priors.valid.shape, -1.0).scatter_reduce(1, flat, claim, "amax")
        wins = positive_BGT.flatten(1) & (claim == best_BP.gather(1, flat))
        number = torch.arange(num_gts, device=flat.device).view(1, -1, 1).expand_as(candidate_BGT).flatten(1)
        first = torch.full_like(priors.valid, num_gts, dtype=torch.long)
        first = first.scatter_reduce(1, flat, torch.where(wins, number, num_gts), "amin")
        return first.masked_fill(first == num_gts, NEGATIVE).masked_fill(~priors.valid, IGNORED)

    def _candidates(self, boxes_BP: Tensor, priors: Priors, targets: Targets) -> Tensor:
        """(B, G, T) indices of the nearest priors of every level; levels of fewer than topk priors give them all."""
        centre_BG = (targets.boxes[..., :2] + targets.boxes[..., 2:]) * 0.5
        found: list[Tensor] = []
        start = 0
        for size in priors.level_sizes:
            level = boxes_BP[:, start : start + size]
            centre = (level[..., :2] + level[..., 2:]) * 0.5
            dx = centre_BG[..., 0].unsqueeze(2) - centre[..., 0].unsqueeze(1)
            dy = centre_BG[..., 1].unsqueeze(2) - centre[..., 1].unsqueeze(1)
            squared = (dx.square() + dy.square()).float()
            squared = squared.masked_fill(~priors.valid[:, start : start + size].unsqueeze(1), torch.inf)
            # The bits of a float >= 0 order like the float; the index below them decides between equal distances.
            place = torch.arange(size, device=squared.device)
            key = (squared.view(torch.int32).long() << 32) + place
            found.append(key.topk(min(self.topk, size), dim=2, largest=False).indices + start)
            start += size
        return torch.cat(found, dim=2)


def _threshold(iou_BGT: Tensor, counted_BGT: Tensor) -> Tensor:
    """(B, G) mean plus unbiased standard deviation of the counted candidates' IoU."""
    count = counted_BGT.sum(2)
    mean = (iou_BGT * counted_BGT).sum(2) / count.clamp(min=1)
    squares = (iou_BGT - mean.unsqueeze(2)).square() * counted_BGT
    return mean + (squares.sum(2) / (count - 1).clamp(min=1)).sqrt()


def _depth(boxes: Tensor, gts: Tensor) -> Tensor:
    """Distance in pixels from the centres of boxes to the nearest side of gts; negative outside."""
    centre = (boxes[..., :2] + boxes[..., 2:]) * 0.5
    sides = torch.cat([centre - gts[..., :2], gts[..., 2:] - centre], dim=-1)
    return sides.amin(-1)
