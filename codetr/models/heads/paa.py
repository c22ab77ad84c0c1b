"""PAA: anchors that overlap an object are offered to it, and those that predict it well become its positives.

Paper: Kim and Lee, Probabilistic Anchor Assignment with IoU Prediction for Object Detection. Co-DETR (supplement B)
uses one convolution in each tower instead of four.

Its voting, which moves a detection towards the boxes that suppression drops, is left out: detections are those of the
other heads, ranked by the root of class score times predicted IoU.

Parameters: `cls_tower`, `box_tower`, `cls`, `box`, `iou`, `scales.<l>`. Dimension key: B images, P anchors, K classes.
"""

from __future__ import annotations

from typing import final

import torch
from pydantic import Field
from torch import Tensor

from codetr.assigners.paa import PAAAssigner
from codetr.losses.box import giou_loss
from codetr.losses.focal import binary_cross_entropy, sigmoid_focal_loss_rows
from codetr.models.heads.contract import Head
from codetr.models.parts.dense_head import DenseHead, DenseOutput, FocalConfig, Goals, focal_rows
from codetr.models.parts.positive_sampler import PositiveSampler
from codetr.models.parts.priors import AnchorGrid
from codetr.ops.boxes import DeltaCoder, aligned_iou
from codetr.ops.distributed import divisor
from codetr.structures import Targets


@final
class PAA(DenseHead, Head):
    """Losses `cls` (focal or quality focal), `box` (GIoU weighted by the IoU of the prediction) and `iou` (that IoU,
    as a probability).

    An offered anchor is judged by its weighted focal and box loss against its object, whatever the class loss: the
    quality focal loss would think well of an anchor that expects little and is right. The positives are the anchors
    that are kept; the candidates handed to the sampler are the anchors of all levels in the order of `AnchorGrid`,
    invalid ones excluded. The feature of an anchor is the pyramid's value at its cell.
    """

    class Config(FocalConfig):
        anchor_scale: float = Field(8.0, gt=0, description="side of the anchor in strides")
        offered_iou: float = Field(0.1, ge=0, le=1, description="least IoU of an anchor that is offered to an object")
        topk: int = Field(9, ge=1, description="candidates of each level and object among those offered")
        giou_weight: float = Field(1.3, ge=0, description="weight of the GIoU loss")
        iou_weight: float = Field(0.5, ge=0, description="weight of the loss of the predicted IoU")

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
            quality="iou",
        )
        self.assigner = PAAAssigner(overlap=config.offered_iou, topk=config.topk)
        self.coder = DeltaCoder(stds=(0.1, 0.1, 0.2, 0.2))

    @torch.no_grad()
    def assign(self, output: DenseOutput, targets: Targets) -> Tensor:
        config, priors = self.config, output.priors
        offered = self.assigner.assign(priors, targets)
        goals = self._goals(offered, priors, targets)
        focal = sigmoid_focal_loss_rows(
            output.logits, goals.labels, goals.positive, alpha=config.alpha, gamma=config.gamma
        )
        judged = config.class_weight * focal + config.giou_weight * giou_loss(output.boxes, goals.measured)
        return self.assigner.keep(offered, judged, priors, targets)

    def decode(self, priors: Tensor, box: Tensor, strides: Tensor) -> Tensor:
        return self.coder.decode(priors, box)

    def score(self, scores: Tensor, quality: Tensor | None) -> Tensor:
        assert quality is not None
        return (scores * quality).sqrt()

    def losses(self, output: DenseOutput, goals: Goals) -> dict[str, Tensor]:
        config, positive = self.config, goals.positive
        assert output.quality is not None
        iou = aligned_iou(output.boxes.detach(), goals.measured).clamp(max=1) * positive
        count, weight = divisor(goals.num_positives(least=0)), divisor(iou.sum())
        focal = focal_rows(config, output, goals)
        giou = giou_loss(output.boxes, goals.measured) * iou
        entropy = binary_cross_entropy(output.quality, iou) * positive
        return {
            # Of few positives each image counts as one.
            "cls": config.class_weight * focal.sum() / count.clamp(min=len(positive)),
            "box": config.giou_weight * giou.sum() / weight,
            "iou": config.iou_weight * entropy.sum() / count,
        }
