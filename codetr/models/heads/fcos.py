"""FCOS: points that predict the distances to the sides of the object whose middle they lie in.

Paper: Tian et al., FCOS: A Simple and Strong Anchor-free Object Detector, with its improvements: centre sampling,
distances in units of the stride, centerness predicted beside the box, GIoU. Co-DETR (supplement B) uses one convolution
in each tower instead of four.

Each level takes objects whose farthest side is four to eight strides away from the point, the finest level all smaller
ones too and the coarsest all larger ones: 64, 128, 256 and 512 pixels part strides of 8 to 128, as in the paper. A
pyramid that begins at stride 4 halves once more, at 32.

Parameters: `cls_tower`, `box_tower`, `cls`, `box`, `centerness`, `scales.<l>`. Dimension key: B images, P points,
K classes.
"""

from __future__ import annotations

from typing import Literal, final

from pydantic import Field
from torch import Tensor

from codetr.assigners.fcos import FCOSAssigner
from codetr.losses.box import giou_loss
from codetr.losses.focal import binary_cross_entropy
from codetr.models.heads.contract import Head
from codetr.models.parts.dense_head import DenseHead, DenseOutput, FocalConfig, Goals, focal_rows
from codetr.models.parts.distances import boxes_at, centerness_target, centres
from codetr.models.parts.positive_sampler import PositiveSampler
from codetr.models.parts.priors import AnchorGrid
from codetr.ops.distributed import divisor
from codetr.structures import Targets


@final
class FCOS(DenseHead, Head):
    """Losses `cls` (focal or quality focal), `box` (GIoU weighted by centerness) and `centerness`.

    Points lie in the middle of the cells. A positive becomes the square of `point_scale` strides round its point
    (Co-DETR, Table 1: 8 * 2^(3 + level)); the candidates handed to the sampler are the points of all levels, level
    after level, row by row, invalid ones excluded. The feature of a point is the pyramid's value at its cell.
    """

    class Config(FocalConfig):
        point_scale: float = Field(
            8.0, gt=0, description="side of the square that a positive point becomes, in strides"
        )
        radius: float | None = Field(
            1.5, gt=0, description="positives are so many strides from an object's centre at most; null: anywhere in it"
        )
        centerness_tower: Literal["cls", "box"] = Field("box", description="tower that centerness is predicted from")
        giou_weight: float = Field(1.0, ge=0, description="weight of the GIoU loss")
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
            anchors=AnchorGrid(scale=config.point_scale, in_padding=config.anchors_in_padding, offset=0.5),
            quality="centerness",
            quality_tower=config.centerness_tower,
        )
        self.assigner = FCOSAssigner(strides, radius=config.radius)

    def assign(self, output: DenseOutput, targets: Targets) -> Tensor:
        return self.assigner.assign(output.priors, targets)

    def decode(self, priors: Tensor, box: Tensor, strides: Tensor) -> Tensor:
        """box: distances to the sides in strides; negative ones count as 0."""
        return boxes_at(centres(priors), box.relu() * strides)

    def losses(self, output: DenseOutput, goals: Goals) -> dict[str, Tensor]:
        config, positive = self.config, goals.positive
        assert output.quality is not None
        target = centerness_target(output.priors.boxes, goals.measured) * positive
        count, weight = divisor(goals.num_positives(least=0)), divisor(target.sum())
        focal = focal_rows(config, output, goals)
        giou = giou_loss(output.boxes, goals.measured) * target
        entropy = binary_cross_entropy(output.quality, target) * positive
        return {
            "cls": config.class_weight * focal.sum() / count,
            "box": config.giou_weight * giou.sum() / weight,
            "centerness": config.centerness_weight * entropy.sum() / count,
        }
