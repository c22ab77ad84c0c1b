"""GFL: the class score is the quality of the box, and each side of a box is a distribution.

Paper: Li et al., Generalized Focal Loss: Learning Qualified and Distributed Bounding Boxes for Dense Object Detection.
Anchors and their assignment are those of ATSS; boxes are distances from the anchor's centre in units of the stride.
Co-DETR (supplement B) uses one convolution in each tower instead of four.

Parameters: `cls_tower`, `box_tower`, `cls`, `box` (left, top, right, bottom, the bins of each side together),
`scales.<l>`. Dimension key: B images, P anchors, K classes, R largest distance.
"""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field
from torch import Tensor

from codetr.assigners.atss import ATSSAssigner
from codetr.losses.box import giou_loss
from codetr.losses.focal import distribution_focal_loss, quality_focal_loss
from codetr.models.heads.contract import Head
from codetr.models.parts.dense_head import DenseConfig, DenseHead, DenseOutput, Goals
from codetr.models.parts.distances import boxes_at, centres, distances
from codetr.models.parts.positive_sampler import PositiveSampler
from codetr.models.parts.priors import AnchorGrid
from codetr.ops.boxes import aligned_iou, widened
from codetr.ops.distributed import divisor
from codetr.structures import Targets

_BEYOND = 0.1
"""Targets end so far before the largest distance, in strides, as published: the last bin is never certain."""


@final
class GFL(DenseHead, Head):
    """Losses `cls` (quality focal), `box` (GIoU) and `distribution` (of the sides).

    The last two are weighted by the highest class score of the anchor. The positives are anchors; the candidates handed
    to the sampler are the anchors of all levels in the order of `AnchorGrid`, invalid ones excluded. The feature of an
    anchor is the pyramid's value at its cell.
    """

    class Config(DenseConfig):
        anchor_scale: float = Field(8.0, gt=0, description="side of the anchor in strides")
        topk: int = Field(9, ge=1, description="candidates of each level and object")
        reg_max: int = Field(16, ge=1, description="largest distance of a side, in strides; bins are 0 to reg_max")
        beta: float = Field(2.0, ge=1, description="exponent of the quality focal loss")
        giou_weight: float = Field(2.0, ge=0, description="weight of the GIoU loss")
        distribution_weight: float = Field(0.25, ge=0, description="weight of the distribution focal loss")

    config: Config

    def __init__(
        self, config: Config, *, dim: int, num_classes: int, strides: tuple[int, ...], sampler: PositiveSampler
    ) -> None:
        super().__init__(
            config,
            dim=dim,
            num_classes=num_classes,
            strides=strides,
            sampler=sampler,
            anchors=AnchorGrid(scale=config.anchor_scale, in_padding=config.anchors_in_padding),
            box_channels=4 * (config.reg_max + 1),
        )
        self.assigner = ATSSAssigner(topk=config.topk)

    def assign(self, output: DenseOutput, targets: Targets) -> Tensor:
        return self.assigner.assign(output.priors, targets)

    def decode(self, priors: Tensor, box: Tensor, strides: Tensor) -> Tensor:
        """box: logits of the bins; a distance is the mean of its distribution."""
        probability = box.unflatten(-1, (4, -1)).softmax(-1)
        bins = torch.arange(self.config.reg_max + 1, device=box.device, dtype=box.dtype)
        return boxes_at(centres(priors), (probability * bins).sum(-1) * strides)

    def losses(self, output: DenseOutput, goals: Goals) -> dict[str, Tensor]:
        config = self.config
        certainty = widened(output.logits.detach()).sigmoid().amax(2) * goals.positive
        count, weight = divisor(goals.num_positives(least=1)), divisor(certainty.sum())
        quality = aligned_iou(output.boxes.detach(), goals.measured).clamp(max=1)
        focal = quality_focal_loss(output.logits, goals.labels, quality, goals.counted, beta=config.beta)
        reach = distances(centres(output.priors.boxes), goals.measured) / output.strides
        sides = distribution_focal_loss(
            output.box.unflatten(2, (4, -1)),
            reach.clamp(0, config.reg_max - _BEYOND),
            certainty.unsqueeze(2).expand(-1, -1, 4),
        )
        giou = giou_loss(output.boxes, goals.measured) * certainty
        return {
            "cls": config.class_weight * focal.sum() / count,
            "box": config.giou_weight * giou.sum() / weight,
            "distribution": config.distribution_weight * sides.sum() / (4 * weight),
        }
