"""The region proposal network of the two-stage heads.

Parameters and their names in the published weights (`rpn_head.`): `conv` = `rpn_conv`, `objectness` = `rpn_cls`,
`deltas` = `rpn_reg`.

Paper: Ren et al., Faster R-CNN. Dimension key: B images, P anchors, A anchors of a cell, S samples, N proposals.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from codetr.assigners.contract import Priors, matched
from codetr.assigners.max_iou import MaxIoUAssigner
from codetr.assigners.sampling import sample_balanced
from codetr.config import Section
from codetr.losses.box import l1_loss
from codetr.losses.focal import binary_cross_entropy
from codetr.models.parts.conv_tower import init_normal
from codetr.models.parts.detections import top_of_levels
from codetr.models.parts.priors import AnchorGrid, flat_cells
from codetr.ops.boxes import DeltaCoder, clip, widened
from codetr.ops.distributed import divisor
from codetr.ops.draws import priorities
from codetr.ops.draws import stream as stream_of
from codetr.ops.gather import take
from codetr.ops.nms import nms
from codetr.structures import Pyramid, Targets


class RpnConfig(Section):
    """Settings of the region proposal network."""

    channels: int = Field(256, ge=1, description="width of the hidden convolution")
    anchor_scale: float = Field(4.0, gt=0, description="side of the smallest square anchor in strides")
    scales_per_octave: int = Field(3, ge=1, description="anchor sizes between a level and the next")
    ratios: tuple[float, ...] = Field((0.5, 1.0, 2.0), min_length=1, description="heights over widths of the anchors")
    anchors_in_padding: bool = Field(False, description="anchors in the padding of the batch are negatives too")
    positive_iou: float = Field(0.7, ge=0, le=1, description="least IoU of a positive anchor")
    negative_iou: float = Field(0.3, ge=0, le=1, description="anchors below this IoU are negative")
    low_quality_iou: float = Field(
        0.3, ge=0, le=1, description="an object's best anchors are positive from this IoU on"
    )
    samples: int = Field(256, ge=2, description="anchors of an image in the loss")
    positive_fraction: float = Field(0.5, gt=0, le=1, description="most of these that are positive")
    class_weight: float = Field(1.0, ge=0, description="weight of the objectness loss")
    l1_weight: float = Field(1.0, ge=0, description="weight of the L1 loss of the deltas")
    train_candidates: int = Field(4000, ge=1, description="training: best anchors of a level that enter NMS")
    train_proposals: int = Field(1000, ge=1, description="training: proposals of an image")
    test_candidates: int = Field(1000, ge=1, description="inference: best anchors of a level that enter NMS")
    test_proposals: int = Field(1000, ge=1, description="inference: proposals of an image")
    nms_iou: float = Field(0.7, gt=0, le=1, description="overlap above which NMS drops a proposal")


@dataclass(frozen=True)
class RpnOutput:
    """objectness: (B, P) logits. deltas: (B, P, 4). priors: the anchors."""

    objectness: Tensor
    deltas: Tensor
    priors: Priors


class Rpn(nn.Module):
    """Objectness and box deltas of every anchor, and the proposals made from them.

    stream: of the head, whose child the draws here are.
    """

    def __init__(self, config: RpnConfig, *, dim: int, stream: int = 0) -> None:
        super().__init__()
        self.config = config
        self.stream = stream_of("rpn", stream)
        self.anchors = AnchorGrid(
            config.anchor_scale, config.scales_per_octave, config.ratios, in_padding=config.anchors_in_padding
        )
        self.assigner = MaxIoUAssigner(config.positive_iou, config.negative_iou, config.low_quality_iou)
        self.coder = DeltaCoder()
        self.conv = nn.Conv2d(dim, config.channels, 3, padding=1)
        self.objectness = nn.Conv2d(config.channels, len(self.anchors), 1)
        self.deltas = nn.Conv2d(config.channels, len(self.anchors) * 4, 1)
        init_normal(self, std=0.01)

    def forward(self, pyramid: Pyramid) -> RpnOutput:
        hidden = [self.conv(features).relu() for features in pyramid.maps]
        objectness = flat_cells(tuple(self.objectness(h) for h in hidden), per_cell=len(self.anchors))
        deltas = flat_cells(tuple(self.deltas(h) for h in hidden), per_cell=len(self.anchors))
        return RpnOutput(objectness.squeeze(2), deltas, self.anchors.priors(pyramid))

    def losses(self, output: RpnOutput, targets: Targets) -> dict[str, Tensor]:
        """`rpn_cls` and `rpn_box`, over the sampled anchors, each divided by their number over the ranks."""
        config = self.config
        gt_index = self.assigner.assign(output.priors, targets)
        index, sampled = sample_balanced(
            gt_index,
            priorities(targets.seeds, gt_index, self.stream),
            count=config.samples,
            positive_fraction=config.positive_fraction,
        )
        labels, boxes = matched(gt_index.gather(1, index), targets, background=-1)
        anchors = take(output.priors.of_images(), index)
        positive = sampled & (labels >= 0)
        negative = sampled & ~positive
        # Each image counts for one positive and one negative at least.
        count = divisor((positive.sum(1).clamp(min=1) + negative.sum(1).clamp(min=1)).sum().float())
        objectness = binary_cross_entropy(output.objectness.gather(1, index), positive.float())
        # A negative is measured against its own anchor, which is finite, and weighs nothing.
        goal = self.coder.encode(anchors, torch.where(positive.unsqueeze(2), boxes, anchors))
        distance = l1_loss(take(output.deltas, index), goal).sum(2)
        return {
            "rpn_cls": config.class_weight * (objectness * sampled).sum() / count,
            "rpn_box": config.l1_weight * (distance * positive).sum() / count,
        }

    @torch.no_grad()
    def proposals(self, output: RpnOutput, sizes: Tensor, *, train: bool) -> tuple[Tensor, Tensor]:
        """Boxes (B, N, 4) xyxy pixels, clipped to the images, detached, and valid (B, N) bool; best first.

        Suppression is within a level. Boxes without width or height are dropped.
        """
        config = self.config
        candidates = config.train_candidates if train else config.test_candidates
        limit = config.train_proposals if train else config.test_proposals
        scores = widened(output.objectness)
        index = top_of_levels(scores, output.priors.level_sizes, limit=candidates)
        boxes = self.coder.decode(take(output.priors.of_images(), index), take(output.deltas, index))
        boxes = clip(boxes, sizes)
        width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
        counts = [min(candidates, size) for size in output.priors.level_sizes]
        level = torch.cat([torch.full((count,), number, device=index.device) for number, count in enumerate(counts)])
        kept, valid = nms(
            boxes,
            scores.gather(1, index),
            level.expand_as(index),
            (width > 0) & (height > 0),
            iou_threshold=config.nms_iou,
            limit=limit,
        )
        return take(boxes, kept).masked_fill(~valid.unsqueeze(2), 0), valid
