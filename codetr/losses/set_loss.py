"""The loss of query groups: it looks at a group's supervision alone."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from codetr.assigners.hungarian import MatchingCost, hungarian_match
from codetr.losses.box import giou_loss
from codetr.losses.federated import only_counted
from codetr.losses.focal import quality_focal_loss, sigmoid_focal_loss_rows
from codetr.losses.focal_settings import FocalSettings
from codetr.ops.boxes import aligned_iou, cxcywh_to_xyxy, normalise
from codetr.ops.distributed import divisor
from codetr.structures import Assigned, DecoderOutput, EncoderPrediction, Match, QueryGroup, Targets


class CriterionConfig(FocalSettings):
    """Weights of the set loss and of the matching cost; the defaults are those of Co-Deformable-DETR."""

    federated: bool = Field(
        False, description="sigmoid: only the classes drawn for an image count (needs data.federated)"
    )
    class_weight: float = Field(2.0, ge=0, description="weight of the class loss")
    l1_weight: float = Field(5.0, ge=0, description="weight of the L1 box loss")
    giou_weight: float = Field(2.0, ge=0, description="weight of the GIoU box loss")
    no_object_weight: float = Field(0.1, ge=0, le=1, description="softmax (DETR): weight of queries without an object")
    cost: MatchingCost = Field(default_factory=MatchingCost, description="Hungarian matching")


@dataclass(frozen=True)
class _Goal:
    """labels (L, B, N), K = background; boxes (L, B, N, 4) cxcywh; weights (L, B, N) of the class loss; L may be 1."""

    labels: Tensor
    boxes: Tensor
    weights: Tensor


class SetCriterion:
    """Class, L1 and GIoU loss of every layer of a group.

    Each term is a sum over queries divided by the number of positives, over the ranks and at least 1 (`divisor`). What
    is accumulated in pieces is divided piece by piece: a piece of few objects weighs as much as another. Box terms
    count positives only, L1 on cxcywh in units of the image, GIoU on the same boxes as corners (GIoU does not change
    with the scale of an axis, so it equals the published code's, in pixels).
    classification: `sigmoid`, focal or quality focal loss of K logits; `softmax`, cross-entropy of K + 1, the last for
    no object, divided by the sum of the weights, as DETR has it. With `federated`, the class loss is that of
    `Targets.counted_classes`; matching looks at all classes, of which it reads those of the objects alone.
    Source: paper Eq. 5; Carion et al., arXiv 2005.12872, Eq. 2.
    """

    def __init__(self, config: CriterionConfig, *, classification: Literal["sigmoid", "softmax"] = "sigmoid") -> None:
        self.config, self.classification = config, classification
        self._warned = False

    def _background(self, output: DecoderOutput) -> int:
        """The label of queries without an object, K."""
        return output.logits.shape[-1] - (self.classification == "softmax")

    def group(self, group: QueryGroup, output: DecoderOutput, targets: Targets, sizes: Tensor) -> dict[str, Tensor]:
        """Losses `<group>.<layer>.<term>`, weighted, times the group's weight."""
        self._warn_of_too_few_queries(group, targets)
        goal = self._goal(group.supervision, group.valid, output, targets, sizes)
        return {
            f"{group.name}.{layer}.{term}": group.weight * value
            for term, values in self._terms(output, goal, targets.counted_classes).items()
            for layer, value in enumerate(values.unbind())
        }

    def encoder(self, prediction: EncoderPrediction, targets: Targets, sizes: Tensor) -> dict[str, Tensor]:
        """Losses `encoder.<term>` of two-stage predictions, the mean over the sets of proposal heads."""
        if prediction.class_agnostic:
            # Channel 0 stands for any object; the channels of the real classes are trained as negatives.
            zeros = torch.zeros_like(targets.labels)
            targets = Targets(targets.boxes, zeros, targets.valid, targets.counts)
        goal = self._goal(Match(), None, prediction.output, targets, sizes)
        terms = self._terms(prediction.output, goal, targets.counted_classes)
        return {f"encoder.{term}": values.mean() for term, values in terms.items()}

    def _warn_of_too_few_queries(self, group: QueryGroup, targets: Targets) -> None:
        """Once. Repeated matching (H-DETR) may have fewer queries than copies by design."""
        most = max(targets.counts)
        if self._warned or group.supervision != Match() or most <= len(group):
            return
        self._warned = True
        warnings.warn(
            f"an image has {most} objects but the group {group.name!r} has {len(group)} queries: objects beyond that "
            "go without one; base.num_queries should exceed the objects of any image (a small image of a two-stage "
            "base has no more queries than tokens)",
            RuntimeWarning,
            stacklevel=3,
        )

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
            num_objects=targets.valid.sum(1),
            cost=self.config.cost,
            repeat=supervision.repeat,
            valid=valid,
        )
        return _matched(index, targets.labels, boxes, valid, background=self._background(output))

    def _terms(self, output: DecoderOutput, goal: _Goal, counted: Tensor | None) -> dict[str, Tensor]:
        """(L,) of each term, weighted by the criterion. counted: `Targets.counted_classes`."""
        config = self.config
        positive = (goal.labels < self._background(output)) & (goal.weights > 0)
        count = divisor(positive.sum((1, 2)).float())
        boxes = output.boxes.float()
        masked = positive.expand(boxes.shape[:3])
        distance = (boxes - goal.boxes).abs().sum(-1)
        overlap = giou_loss(boxes, goal.boxes, box_format="cxcywh")
        return {
            "cls": config.class_weight * self._class_loss(output, goal, positive, count, counted),
            "l1": config.l1_weight * distance.masked_fill(~masked, 0.0).sum((1, 2)) / count,
            "giou": config.giou_weight * overlap.masked_fill(~masked, 0.0).sum((1, 2)) / count,
        }

    def _class_loss(
        self, output: DecoderOutput, goal: _Goal, positive: Tensor, count: Tensor, counted: Tensor | None
    ) -> Tensor:
        """(L,) of each layer. positive: (L or 1, B, N) bool; count: (L or 1,), the positives' number."""
        config, logits = self.config, output.logits
        labels = goal.labels.expand(logits.shape[:3])
        if self.classification == "sigmoid":
            weights = goal.weights.expand(labels.shape)
            logits = only_counted(logits, counted if config.federated else None)
            if config.class_loss == "quality_focal":
                quality = _quality(output.boxes.detach(), goal.boxes)
                return quality_focal_loss(logits, labels, quality, weights, beta=config.gamma).sum((1, 2)) / count
            focal = sigmoid_focal_loss_rows(logits, labels, weights, alpha=config.alpha, gamma=config.gamma)
            return focal.sum((1, 2)) / count
        weight = torch.where(positive, 1.0, config.no_object_weight) * goal.weights
        entropy = F.cross_entropy(logits.float().movedim(-1, 1), labels, reduction="none")
        return (entropy * weight).sum((1, 2)) / divisor(weight.sum((1, 2)))


def _quality(boxes: Tensor, targets: Tensor) -> Tensor:
    """(L, B, N) IoU of boxes (L, B, N, 4) with those that they are to become, (L or 1, B, N, 4), both cxcywh."""
    return aligned_iou(cxcywh_to_xyxy(boxes.float()), cxcywh_to_xyxy(targets.float())).clamp(0, 1)


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
