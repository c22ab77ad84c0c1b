"""The loss of query groups: it looks at a group's supervision alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from codetr.assigners.hungarian import MatchingCost, hungarian_match
from codetr.config import Section
from codetr.losses.box import giou_loss
from codetr.losses.focal import sigmoid_focal_loss
from codetr.ops.boxes import cxcywh_to_xyxy, normalise
from codetr.ops.distributed import mean_over_ranks
from codetr.structures import Assigned, DecoderOutput, EncoderPrediction, Match, QueryGroup, Targets


class CriterionConfig(Section):
    """Weights of the set loss and of the matching cost; the defaults are those of Co-Deformable-DETR."""

    class_weight: float = Field(2.0, ge=0, description="weight of the focal class loss")
    l1_weight: float = Field(5.0, ge=0, description="weight of the L1 box loss")
    giou_weight: float = Field(2.0, ge=0, description="weight of the GIoU box loss")
    alpha: float = Field(0.25, ge=0, le=1, description="focal loss: weight of positives against negatives")
    gamma: float = Field(2.0, ge=0, description="focal loss: exponent")
    cost: MatchingCost = Field(default_factory=MatchingCost, description="Hungarian matching")


@dataclass(frozen=True)
class _Goal:
    """labels (L, B, N), K = background; boxes (L, B, N, 4) cxcywh; weights (L, B, N) of the class loss; L may be 1."""

    labels: Tensor
    boxes: Tensor
    weights: Tensor


class SetCriterion:
    """Class, L1 and GIoU loss of every layer of a group.

    Each term is a sum over queries divided by the number of positives, averaged over ranks and at least 1. Box terms
    count positives only, L1 on cxcywh in units of the image, GIoU on the same boxes as corners (GIoU does not change
    with the scale of an axis, so it equals the published code's, in pixels).
    Source: paper Eq. 5; Carion et al., arXiv 2005.12872, Eq. 2.
    """

    def __init__(self, config: CriterionConfig) -> None:
        self.config = config

    def group(self, group: QueryGroup, output: DecoderOutput, targets: Targets, sizes: Tensor) -> dict[str, Tensor]:
        """Losses `<group>.<layer>.<term>`, weighted, times the group's weight."""
        goal = self._goal(group.supervision, group.valid, output, targets, sizes)
        return self._terms(group.name, output, goal, group.weight)

    def encoder(self, prediction: EncoderPrediction, targets: Targets, sizes: Tensor) -> dict[str, Tensor]:
        """Losses `encoder.<term>` of two-stage predictions."""
        if prediction.class_agnostic:
            # Channel 0 stands for any object; the channels of the real classes are trained as negatives.
            zeros = torch.zeros_like(targets.labels)
            targets = Targets(targets.boxes, zeros, targets.valid, targets.counts)
        goal = self._goal(Match(), None, prediction.output, targets, sizes)
        terms = self._terms("encoder", prediction.output, goal, 1.0)
        return {name.replace(".0.", "."): value for name, value in terms.items()}

    def _goal(
        self,
        supervision: Match | Assigned,
        valid: Tensor | None,
        output: DecoderOutput,
        targets: Targets,
        sizes: Tensor,
    ) -> _Goal:
        if isinstance(supervision, Assigned):
            return _Goal(supervision.labels[None], supervision.boxes[None], supervision.weights[None])
        boxes = normalise(targets.boxes, sizes)
        index = hungarian_match(
            output.logits,
            output.boxes,
            target_labels=targets.labels,
            target_boxes=boxes,
            counts=targets.counts,
            cost=self.config.cost,
            repeat=supervision.repeat,
            valid=valid,
        )
        return _matched(index, targets.labels, boxes, valid, background=output.logits.shape[-1])

    def _terms(self, name: str, output: DecoderOutput, goal: _Goal, weight: float) -> dict[str, Tensor]:
        config = self.config
        positive = (goal.labels < output.logits.shape[-1]) & (goal.weights > 0)
        count = mean_over_ranks(positive.sum((1, 2)).float()).clamp(min=1)
        logits, boxes = output.logits.float(), output.boxes.float()
        focal = sigmoid_focal_loss(logits, goal.labels.expand(logits.shape[:3]), alpha=config.alpha, gamma=config.gamma)
        masked = positive.expand(boxes.shape[:3])
        distance = (boxes - goal.boxes).abs().sum(-1)
        overlap = giou_loss(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(goal.boxes).expand_as(boxes))
        sums = {
            "cls": config.class_weight * (focal.sum(-1) * goal.weights).sum((1, 2)),
            "l1": config.l1_weight * distance.masked_fill(~masked, 0.0).sum((1, 2)),
            "giou": config.giou_weight * overlap.masked_fill(~masked, 0.0).sum((1, 2)),
        }
        return {
            f"{name}.{layer}.{term}": weight * value
            for term, values in sums.items()
            for layer, value in enumerate((values / count).unbind())
        }


def _matched(index: Tensor, labels: Tensor, boxes: Tensor, valid: Tensor | None, *, background: int) -> _Goal:
    """Targets of each query from the index of its ground truth (L, B, N), -1 = background."""
    num_layers = len(index)
    chosen = index.clamp(min=0)
    found = labels[None].expand(num_layers, -1, -1).gather(2, chosen)
    corners = boxes[None].expand(num_layers, -1, -1, -1).gather(2, chosen[..., None].expand(-1, -1, -1, 4))
    weights = index.new_ones(index.shape, dtype=boxes.dtype)
    if valid is not None:
        weights = weights * valid
    return _Goal(torch.where(index >= 0, found, background), corners, weights)
