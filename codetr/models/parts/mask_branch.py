"""The mask branch of Mask R-CNN: convolutions on the pooled feature of a region, one mask for each class.

Parameters and their names in the published weights (`roi_head.0.mask_head.`): `convs.<i>` = `convs.<i>.conv`,
`upsample` = `upsample`, `logits` = `conv_logits`.

Paper: He et al., Mask R-CNN.
Dimension key: B images, S regions, K classes, C channels, O side of a region's feature, D detections.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from codetr.config import Section
from codetr.errors import UserError
from codetr.models.parts.roi_stage import Regions, RoiStage
from codetr.ops.boxes import widened
from codetr.ops.distributed import divisor
from codetr.ops.masks import mask_targets
from codetr.structures import Detections, Pyramid, Targets


class MaskBranchConfig(Section):
    """Settings of the mask branch."""

    channels: int = Field(256, ge=1, description="width of the convolutions")
    stacked_convs: int = Field(4, ge=0, description="3x3 convolutions before the resolution doubles")
    output_size: int = Field(14, ge=1, description="side of a region's pooled feature, half that of its mask")
    weight: float = Field(1.0, ge=0, description="weight of the binary cross-entropy")


class MaskBranch(nn.Module):
    """Masks of regions, each of its own class alone: the other classes' masks are never computed."""

    def __init__(self, config: MaskBranchConfig, *, dim: int, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        widths = [dim, *[config.channels] * config.stacked_convs]
        self.convs = nn.ModuleList(
            nn.Conv2d(inner, config.channels, 3, padding=1) for inner in widths[: config.stacked_convs]
        )
        self.upsample = nn.ConvTranspose2d(widths[-1], config.channels, 2, stride=2)
        self.logits = nn.Conv2d(config.channels, num_classes, 1)
        for layer in (*self.convs, self.upsample, self.logits):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mask logits (B, S, 2 O, 2 O), of classes `labels` (B, S) below K, from features (B, S, C, O, O)."""
        hidden = features.flatten(0, 1)
        for layer in self.convs:
            hidden = layer(hidden).relu()
        hidden = self.upsample(hidden).relu()
        own = labels.flatten()
        weight = self.logits.weight.flatten(1)[own].unsqueeze(1)  # (B S, 1, C)
        assert self.logits.bias is not None
        masks = widened(weight @ hidden.flatten(2)) + self.logits.bias[own][:, None, None]
        return masks.reshape(*labels.shape, *hidden.shape[2:])

    def losses(self, roi: RoiStage, pyramid: Pyramid, regions: Regions, targets: Targets) -> dict[str, Tensor]:
        """`mask`: binary cross-entropy on the positives of `regions`, the mean over those of all ranks and their cells.

        Raises: UserError if the targets have no masks.
        """
        if targets.mask_crops is None:
            raise UserError("a head with masks learns from them, but the batch has none; set data.masks=true")
        few = slice(roi.config.max_positives)  # the positives come first
        boxes, gt_index, labels = regions.boxes[:, few], regions.gt_index[:, few], regions.labels[:, few]
        positive = regions.valid[:, few] & (labels < self.num_classes)
        pooled = roi.pool(pyramid, boxes, output_size=self.config.output_size)
        logits = self(pooled, labels.clamp(max=self.num_classes - 1))
        goal = _targets(targets, targets.mask_crops, gt_index.clamp(min=0), boxes, size=logits.shape[-1])
        loss = F.binary_cross_entropy_with_logits(logits, goal.to(logits), reduction="none").mean((2, 3))
        return {"mask": self.config.weight * (loss * positive).sum() / divisor(positive.sum().float())}

    @torch.no_grad()
    def detect(self, roi: RoiStage, pyramid: Pyramid, found: list[Detections]) -> list[Detections]:
        """The same detections with the crops of their masks."""
        most = max(1, *(len(detections.scores) for detections in found))
        boxes = torch.stack([_filled(detections.boxes, most) for detections in found])
        labels = torch.stack([_filled(detections.labels, most) for detections in found])
        crops = self(roi.pool(pyramid, boxes, output_size=self.config.output_size), labels).sigmoid()
        return [
            replace(detections, mask_crops=own[: len(detections.scores)])
            for detections, own in zip(found, crops, strict=True)
        ]


@torch.no_grad()
def _targets(targets: Targets, crops: Tensor, gt_index: Tensor, regions: Tensor, *, size: int) -> Tensor:
    """(B, S, size, size) of regions (B, S, 4), whose objects are gt_index (B, S)."""
    first = torch.arange(len(crops), device=crops.device)[:, None] * crops.shape[1]
    index = (gt_index + first).flatten()
    goal = mask_targets(crops.flatten(0, 1), targets.boxes.flatten(0, 1), index, regions.flatten(0, 1), size=size)
    return goal.unflatten(0, gt_index.shape)


def _filled(rows: Tensor, length: int) -> Tensor:
    """Rows of zeros at the end, up to `length`."""
    return torch.cat([rows, rows.new_zeros(length - len(rows), *rows.shape[1:])])
