"""RetinaNet: nine anchors a cell, assigned by their overlaps, all of them in the loss.

Paper: Lin et al., Focal Loss for Dense Object Detection. As there, the towers have no norm. As in Co-DETR (supplement
B), boxes are trained by GIoU after decoding, and each tower has one convolution instead of four. The weight of the GIoU
loss is that of Zhang et al. (ATSS), whose code trains a RetinaNet with it.

Parameters: `cls_tower.<i>.conv`, `box_tower.<i>.conv`, `cls`, `box`. Dimension key: P anchors.
"""

from __future__ import annotations

from typing import final

from pydantic import Field, model_validator
from torch import Tensor, nn

from codetr.assigners.max_iou import MaxIoUAssigner
from codetr.losses.box import giou_loss
from codetr.models.heads.contract import Head
from codetr.models.parts.dense_head import DenseHead, DenseOutput, FocalConfig, Goals, focal_rows
from codetr.models.parts.positive_sampler import PositiveSampler
from codetr.models.parts.priors import AnchorGrid
from codetr.ops.boxes import DeltaCoder
from codetr.ops.distributed import divisor
from codetr.structures import Targets


class _Layer(nn.Module):
    """3x3 convolution, ReLU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(features).relu()


@final
class RetinaNet(DenseHead, Head):
    """Losses `cls` (focal or quality focal) and `box` (GIoU), divided by the number of positives over the ranks.

    The positives are anchors; the candidates handed to the sampler are the anchors of all levels in the order of
    `AnchorGrid`, without invalid ones and those between the two thresholds. The feature of an anchor is the pyramid's
    value at its cell, the same for the nine of a cell.
    """

    class Config(FocalConfig):
        anchor_scale: float = Field(4.0, gt=0, description="side of the smallest square anchor in strides")
        scales_per_octave: int = Field(3, ge=1, description="anchor sizes between a level and the next")
        ratios: tuple[float, ...] = Field(
            (0.5, 1.0, 2.0), min_length=1, description="heights over widths of the anchors"
        )
        positive_iou: float = Field(0.5, ge=0, le=1, description="least IoU of a positive anchor")
        negative_iou: float = Field(0.4, ge=0, le=1, description="anchors below this IoU are negative")
        low_quality_iou: float = Field(
            0.0, ge=0, le=1, description="an object's best anchors are positive from this IoU on"
        )
        giou_weight: float = Field(2.0, ge=0, description="weight of the GIoU loss")
        nms_iou: float = Field(0.5, gt=0, le=1, description="overlap above which NMS drops a box")

        @model_validator(mode="after")
        def _thresholds_are_in_order(self) -> RetinaNet.Config:
            if self.negative_iou > self.positive_iou:
                raise ValueError(f"negative_iou {self.negative_iou} is above positive_iou {self.positive_iou}")
            return self

    config: Config

    def __init__(
        self, config: Config, *, dim: int, num_classes: int, strides: tuple[int, ...], sampler: PositiveSampler
    ) -> None:
        cls_tower, box_tower = (nn.Sequential(*(_Layer(dim) for _ in range(config.stacked_convs))) for _ in range(2))
        super().__init__(
            config,
            dim=dim,
            num_classes=num_classes,
            strides=strides,
            sampler=sampler,
            anchors=AnchorGrid(
                config.anchor_scale, config.scales_per_octave, config.ratios, in_padding=config.anchors_in_padding
            ),
            scaled=False,
            towers=(cls_tower, box_tower),
        )
        self.assigner = MaxIoUAssigner(config.positive_iou, config.negative_iou, config.low_quality_iou)
        self.coder = DeltaCoder()

    def assign(self, output: DenseOutput, targets: Targets) -> Tensor:
        return self.assigner.assign(output.priors, targets)

    def decode(self, priors: Tensor, box: Tensor, strides: Tensor) -> Tensor:
        return self.coder.decode(priors, box)

    def losses(self, output: DenseOutput, goals: Goals) -> dict[str, Tensor]:
        config = self.config
        count = divisor(goals.num_positives(least=1))
        focal = focal_rows(config, output, goals)
        giou = giou_loss(output.boxes, goals.measured) * goals.positive
        return {
            "cls": config.class_weight * focal.sum() / count,
            "box": config.giou_weight * giou.sum() / count,
        }
