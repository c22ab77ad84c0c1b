"""A one-to-many head from outside of codetr: the few anchors of largest overlap with an object are its positives."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from codetr.assigners.contract import IGNORED, NEGATIVE, Priors
from codetr.losses.box import giou_loss
from codetr.models.heads.contract import Head
from codetr.models.parts.dense_head import DenseHead, DenseOutput, FocalConfig, Goals, focal_rows
from codetr.models.parts.positive_sampler import PositiveSampler
from codetr.models.parts.priors import AnchorGrid
from codetr.ops.boxes import DeltaCoder, pairwise_iou
from codetr.ops.distributed import divisor
from codetr.structures import Targets


class BestAnchor(DenseHead, Head):
    """Losses `cls` (focal or quality focal) and `box` (GIoU).

    `DenseHead` brings the towers, the positives, the federated loss, and detection on its own.
    """

    class Config(FocalConfig):
        anchor_scale: float = Field(8.0, gt=0, description="side of the anchor in strides")
        positives: int = Field(4, ge=1, description="anchors of an object")
        giou_weight: float = Field(2.0, ge=0, description="weight of the GIoU loss")

    config: Config

    def __init__(
        self, config: Config, *, dim: int, num_classes: int, strides: tuple[int, ...], sampler: PositiveSampler
    ) -> None:
        grid = AnchorGrid(scale=config.anchor_scale, in_padding=config.anchors_in_padding)
        super().__init__(config, dim=dim, num_classes=num_classes, strides=strides, sampler=sampler, anchors=grid)
        self.coder = DeltaCoder(stds=(0.1, 0.1, 0.2, 0.2))

    def assign(self, output: DenseOutput, targets: Targets) -> Tensor:
        return best_anchors(output.priors, targets, count=self.config.positives)

    def decode(self, priors: Tensor, box: Tensor, strides: Tensor) -> Tensor:
        return self.coder.decode(priors, box)

    def losses(self, output: DenseOutput, goals: Goals) -> dict[str, Tensor]:
        focal = focal_rows(self.config, output, goals)
        giou = giou_loss(output.boxes, goals.measured)
        count = divisor(goals.num_positives(least=1))  # a tensor, over all ranks: a training step reads no number back
        return {
            "cls": self.config.class_weight * focal.sum() / count,
            "box": self.config.giou_weight * (giou * goals.positive).sum() / count,
        }


def best_anchors(priors: Priors, targets: Targets, *, count: int) -> Tensor:
    """The object of each anchor, (B, P): one of those whose `count` best it is, the one that it overlaps most.

    No loop over images and no shape that depends on numbers, so that nothing waits for a GPU.
    """
    overlap = pairwise_iou(priors.of_images(), targets.boxes)
    overlap = overlap.masked_fill(~(priors.valid[:, :, None] & targets.valid[:, None]), 0.0)
    best = overlap.topk(count, dim=1).indices
    taken = overlap.new_zeros(overlap.shape).scatter(1, best, 1.0) * overlap
    value, index = taken.max(dim=2)
    return index.masked_fill(value <= 0, NEGATIVE).masked_fill(~priors.valid, IGNORED)
