"""ATSS: one square anchor a cell, assigned by the statistics of its overlaps.

Paper: Zhang et al., Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample
Selection. Co-DETR uses it with one convolution in each tower instead of four.

Parameters and their names in the published weights (`bbox_head.0.`): `cls_tower.<i>.conv` = `cls_convs.<i>.conv`, its
`.norm` = `.gn`; `box_tower` = `reg_convs`; `cls`, `box`, `centerness` = `atss_cls`, `atss_reg`, `atss_centerness`;
`scales.<l>` = `scales.<l>.scale`.

Dimension key: B images, P anchors, K classes.
"""

from __future__ import annotations

from typing import final

from pydantic import Field
from torch import Tensor

from codetr.assigners.atss import ATSSAssigner
from codetr.losses.box import giou_loss
from codetr.losses.focal import binary_cross_entropy
from codetr.models.heads.contract import Head
from codetr.models.parts.dense_head import DenseHead, DenseOutput, FocalConfig, Goals, focal_rows
from codetr.models.parts.distances import centerness_target
from codetr.models.parts.positive_sampler import PositiveSampler
from codetr.models.parts.priors import AnchorGrid
from codetr.ops.boxes import DeltaCoder
from codetr.ops.distributed import divisor
from codetr.structures import Targets


@final
class ATSS(DenseHead, Head):
    """Losses `cls` (focal or quality focal), `box` (GIoU weighted by centerness) and `centerness`.

    The positives are anchors; the candidates handed to the sampler are the anchors of all levels in the order of
    `AnchorGrid`, invalid ones excluded. The feature of an anchor is the pyramid's value at its cell.
    """

    class Config(FocalConfig):
        anchor_scale: float = Field(8.0, gt=0, description="side of the anchor in strides")
        topk: int = Field(9, ge=1, description="candidates of each level and object")
        giou_weight: float = Field(2.0, ge=0, description="weight of the GIoU loss")
        centerness_weight: float = Field(1.0, ge=0, description="weight of the centerness loss")

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
            quality="centerness",
        )
        self.assigner = ATSSAssigner(topk=config.topk)
        self.coder = DeltaCoder(stds=(0.1, 0.1, 0.2, 0.2))

    def assign(self, output: DenseOutput, targets: Targets) -> Tensor:
        return self.assigner.assign(output.priors, targets)

    def decode(self, priors: Tensor, box: Tensor, strides: Tensor) -> Tensor:
        return self.coder.decode(priors, box)

    def losses(self, output: DenseOutput, goals: Goals) -> dict[str, Tensor]:
        config, positive = self.config, goals.positive
        assert output.quality is not None
        target = centerness_target(output.priors.boxes, goals.measured) * positive
        count, weight = divisor(goals.num_positives(least=1)), divisor(target.sum())
        focal = focal_rows(config, output, goals)
        giou = giou_loss(output.boxes, goals.measured) * target
        entropy = binary_cross_entropy(output.quality, target) * positive
        return {
            "cls": config.class_weight * focal.sum() / count,
            "box": config.giou_weight * giou.sum() / weight,
            "centerness": config.centerness_weight * entropy.sum() / count,
        }
