"""ATSS: one square anchor a cell, assigned by the statistics of its overlaps.

Paper: Zhang et al., Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample
Selection. Co-DETR uses it with one convolution in each tower instead of four.

Parameters and their names in the published weights (`bbox_head.0.`): `cls_tower.<i>.conv` = `cls_convs.<i>.conv`, its
`.norm` = `.gn`; `box_tower` = `reg_convs`; `cls`, `box`, `centerness` = `atss_cls`, `atss_reg`, `atss_centerness`;
`scales.<l>` = `scales.<l>.scale`.

Dimension key: B images, P anchors, K classes, G ground truths.
"""

from __future__ import annotations

import math
from typing import final

import torch
from pydantic import Field
from torch import Tensor, nn

from codetr.assigners.atss import ATSSAssigner
from codetr.assigners.contract import IGNORED, Priors, matched
from codetr.config import Section
from codetr.losses.box import giou_loss
from codetr.losses.focal import binary_cross_entropy, sigmoid_focal_loss_rows
from codetr.models.heads.contract import Head
from codetr.models.parts.conv_tower import ConvTower, init_normal
from codetr.models.parts.detections import best_per_class, top_of_levels
from codetr.models.parts.positive_sampler import PositiveSampler, gather_positives
from codetr.models.parts.priors import AnchorGrid, flat_cells
from codetr.ops.boxes import DeltaCoder, clip, widened
from codetr.ops.distributed import mean_over_ranks
from codetr.ops.gather import take
from codetr.structures import Detections, HeadOutput, Pyramid, Targets


@final
class ATSS(Head):
    """Losses `cls` (focal), `box` (GIoU weighted by centerness) and `centerness`.

    The positives are anchors; the candidates handed to the sampler are the anchors of all levels in the order of
    `AnchorGrid`, invalid ones excluded. The feature of an anchor is the pyramid's value at its cell.
    """

    class Config(Section):
        stacked_convs: int = Field(1, ge=0, description="layers of each tower (paper Table 12)")
        anchor_scale: float = Field(8.0, gt=0, description="side of the anchor in strides")
        anchors_in_padding: bool = Field(False, description="anchors in the padding of the batch are negatives too")
        topk: int = Field(9, ge=1, description="candidates of each level and object")
        alpha: float = Field(0.25, ge=0, le=1, description="weight of positives in the focal loss")
        gamma: float = Field(2.0, ge=0, description="exponent of the focal loss")
        class_weight: float = Field(1.0, ge=0, description="weight of the focal loss")
        giou_weight: float = Field(2.0, ge=0, description="weight of the GIoU loss")
        centerness_weight: float = Field(1.0, ge=0, description="weight of the centerness loss")
        nms_candidates: int = Field(1000, ge=1, description="best scores of a level that enter NMS")
        nms_iou: float = Field(0.6, gt=0, le=1, description="overlap above which NMS drops a box")
        score_threshold: float = Field(0.0, ge=0, lt=1, description="predictions must score more than this")
        max_detections: int = Field(100, ge=1, description="detections of an image")

    def __init__(
        self, config: Config, *, dim: int, num_classes: int, strides: tuple[int, ...], sampler: PositiveSampler
    ) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.sampler = sampler
        self.anchors = AnchorGrid(scale=config.anchor_scale, in_padding=config.anchors_in_padding)
        self.assigner = ATSSAssigner(topk=config.topk)
        self.coder = DeltaCoder(stds=(0.1, 0.1, 0.2, 0.2))
        self.cls_tower = ConvTower(dim, depth=config.stacked_convs)
        self.box_tower = ConvTower(dim, depth=config.stacked_convs)
        self.cls = nn.Conv2d(dim, num_classes, 3, padding=1)
        self.box = nn.Conv2d(dim, 4, 3, padding=1)
        self.centerness = nn.Conv2d(dim, 1, 3, padding=1)
        self.scales = nn.ParameterList(nn.Parameter(torch.tensor(1.0)) for _ in strides)
        init_normal(self, std=0.01)
        assert self.cls.bias is not None
        nn.init.constant_(self.cls.bias, -math.log(99))  # every class starts at a probability of 0.01

    def forward(self, pyramid: Pyramid, targets: Targets) -> HeadOutput:
        priors = self.anchors.priors(pyramid)
        gt_index = self.assigner.assign(priors, targets)
        labels, boxes = matched(gt_index, targets, background=self.num_classes)
        counted = gt_index != IGNORED
        losses = self._losses(self._predictions(pyramid.maps), priors, labels, boxes, counted)
        positives = gather_positives(
            self.sampler.pick(labels, counted, self.num_classes),
            boxes=priors.of_images(),
            features=flat_cells(pyramid.maps),
            labels=labels,
            targets=boxes,
            background=self.num_classes,
        )
        return HeadOutput(losses, positives)

    def _predictions(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits (B, P, K), box deltas (B, P, 4) and centerness logits (B, P)."""
        logits: list[Tensor] = []
        deltas: list[Tensor] = []
        centerness: list[Tensor] = []
        for features, scale in zip(maps, self.scales, strict=True):
            logits.append(self.cls(self.cls_tower(features)))
            regression = self.box_tower(features)
            deltas.append(widened(self.box(regression)) * scale)
            centerness.append(self.centerness(regression))
        return flat_cells(tuple(logits)), flat_cells(tuple(deltas)), flat_cells(tuple(centerness)).squeeze(2)

    def _losses(
        self,
        predictions: tuple[Tensor, Tensor, Tensor],
        priors: Priors,
        labels: Tensor,
        boxes: Tensor,
        counted: Tensor,
    ) -> dict[str, Tensor]:
        config = self.config
        logits, deltas, centerness = predictions
        positive = labels < self.num_classes
        # A negative is measured against its own anchor, which is finite, and weighs nothing.
        boxes = torch.where(positive.unsqueeze(2), boxes, priors.boxes)
        target = centerness_target(priors.boxes, boxes) * positive
        count = mean_over_ranks(positive.sum(1).clamp(min=1).sum().float()).clamp(min=1)
        weight = mean_over_ranks(target.sum()).clamp(min=1)
        focal = sigmoid_focal_loss_rows(logits, labels, counted, alpha=config.alpha, gamma=config.gamma)
        giou = giou_loss(self.coder.decode(priors.boxes, deltas), boxes)
        return {
            "cls": config.class_weight * focal.sum() / count,
            "box": config.giou_weight * (giou * target).sum() / weight,
            "centerness": config.centerness_weight
            * (binary_cross_entropy(centerness, target) * positive).sum()
            / count,
        }

    @torch.no_grad()
    def predict(self, pyramid: Pyramid) -> list[Detections]:
        config = self.config
        priors = self.anchors.priors(pyramid)
        logits, deltas, centerness = self._predictions(pyramid.maps)
        scores = widened(logits).sigmoid().flatten(1)
        sizes = [size * self.num_classes for size in priors.level_sizes]
        index = top_of_levels(scores, sizes, limit=config.nms_candidates)
        anchor, label = index // self.num_classes, index % self.num_classes
        scores = scores.gather(1, index)
        boxes = self.coder.decode(take(priors.of_images(), anchor), take(deltas, anchor))
        return best_per_class(
            clip(boxes, pyramid.sizes),
            scores * widened(centerness).sigmoid().gather(1, anchor),
            label,
            scores > config.score_threshold,
            iou_threshold=config.nms_iou,
            limit=config.max_detections,
        )


def centerness_target(priors: Tensor, boxes: Tensor) -> Tensor:
    """How central the centre of a prior lies in its ground truth: 1 in the middle, 0 at a side; xyxy, centre inside.

    Source: Tian et al., FCOS, Eq. 3.
    """
    centre = (priors[..., :2] + priors[..., 2:]) * 0.5
    low, high = centre - boxes[..., :2], boxes[..., 2:] - centre
    ratio = torch.minimum(low, high) / torch.maximum(low, high)
    return ratio.prod(-1).sqrt()
