"""The second stage of the two-stage heads: regions sampled from proposals, their features, classes and boxes.

Parameters and their names in the published weights (`roi_head.0.bbox_head.`): `fc.<i>` = `shared_fcs.<i>`, `cls` =
`fc_cls`, `deltas` = `fc_reg`.

Paper: Ren et al., Faster R-CNN.
Dimension key: B images, S regions, N proposals, K classes, C channels, O side of a region's feature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from codetr.assigners.contract import Priors, matched
from codetr.assigners.max_iou import MaxIoUAssigner
from codetr.assigners.sampling import sample_balanced
from codetr.config import Section
from codetr.losses.box import giou_loss
from codetr.losses.federated import only_counted
from codetr.losses.focal import binary_cross_entropy, one_hot
from codetr.models.parts.conv_tower import init_normal, init_xavier
from codetr.models.parts.detections import best_per_class
from codetr.models.parts.positive_sampler import PositiveSampler, gather_positives
from codetr.ops.boxes import DeltaCoder, clip, widened
from codetr.ops.distributed import divisor
from codetr.ops.draws import priorities
from codetr.ops.draws import stream as stream_of
from codetr.ops.gather import take
from codetr.ops.roi import multilevel_roi_align
from codetr.structures import Detections, Positives, Pyramid, Targets


class RoiConfig(Section):
    """Settings of the second stage."""

    hidden: int = Field(1024, ge=1, description="width of the two linear layers")
    output_size: int = Field(7, ge=1, description="side of a region's pooled feature")
    finest_scale: float | None = Field(
        None, gt=0, description="side in pixels, see `roi_levels`; null: 14 times the finest stride"
    )
    positive_iou: float = Field(0.5, ge=0, le=1, description="least IoU of a positive region; the rest is negative")
    samples: int = Field(512, ge=2, description="regions of an image in the loss")
    positive_fraction: float = Field(0.25, gt=0, le=1, description="most of these that are positive")
    add_ground_truth: bool = Field(True, description="the objects themselves join the proposals")
    class_loss: Literal["softmax", "sigmoid"] = Field(
        "softmax", description="cross-entropy of the classes and background, or binary cross-entropy of each class"
    )
    federated: bool = Field(
        False, description="only the classes drawn for an image count (needs data.federated, class_loss: sigmoid)"
    )
    class_weight: float = Field(1.0, ge=0, description="weight of the cross-entropy")
    giou_weight: float = Field(10.0, ge=0, description="weight of the GIoU loss")
    nms_iou: float = Field(0.5, gt=0, le=1, description="overlap above which NMS drops a box of the same class")
    score_threshold: float = Field(0.0, ge=0, lt=1, description="predictions must score more than this")
    max_detections: int = Field(100, ge=1, description="detections of an image")

    @model_validator(mode="after")
    def _classes_can_be_left_out(self) -> RoiConfig:
        if self.federated and self.class_loss == "softmax":
            raise ValueError(
                "federated needs class_loss: sigmoid; the probabilities of a softmax depend on all classes, so that "
                "none can be left out"
            )
        return self

    @property
    def max_positives(self) -> int:
        """The most positives that sampling leaves an image."""
        return max(1, int(self.samples * self.positive_fraction))


@dataclass(frozen=True)
class Regions:
    """Sampled regions of a batch, valid ones first, of those the positives first.

    boxes: (B, S, 4) xyxy pixels, detached. gt_index: (B, S), -1 where negative. labels: (B, S), K = background.
    targets: (B, S, 4) xyxy pixels of the matched ground truth, 0 where negative. valid: (B, S) bool.
    """

    boxes: Tensor
    gt_index: Tensor
    labels: Tensor
    targets: Tensor
    valid: Tensor


class RoiStage(nn.Module):
    """Two shared linear layers on pooled features; classes and class-specific boxes.

    The logits are K + 1, the last for background, with `class_loss: softmax`, and K with `sigmoid`. All levels of the
    pyramid but the appended coarsest one are pooled from.
    stream: of the head, whose children the draws here are.
    """

    def __init__(
        self, config: RoiConfig, *, dim: int, num_classes: int, strides: tuple[int, ...], stream: int = 0
    ) -> None:
        super().__init__()
        self.stream, self.truth_stream = stream_of("regions", stream), stream_of("truths", stream)
        self.config = config
        self.num_classes = num_classes
        self.assigner = MaxIoUAssigner(config.positive_iou, config.positive_iou)
        self.coder = DeltaCoder(stds=(0.1, 0.1, 0.2, 0.2))
        self.strides = strides[:-1]
        self.finest_scale = config.finest_scale or 14.0 * strides[0]
        width = dim * config.output_size**2
        self.fc = nn.ModuleList([nn.Linear(width, config.hidden), nn.Linear(config.hidden, config.hidden)])
        self.is_sigmoid = config.class_loss == "sigmoid"
        self.cls = nn.Linear(config.hidden, num_classes if self.is_sigmoid else num_classes + 1)
        self.deltas = nn.Linear(config.hidden, num_classes * 4)
        init_xavier(self.fc)
        init_normal(self.cls, std=0.01)
        init_normal(self.deltas, std=0.001)
        if self.is_sigmoid:
            nn.init.constant_(self.cls.bias, -math.log(99))  # every class starts at a probability of 0.01

    @torch.no_grad()
    def sample(self, proposals: Tensor, valid: Tensor, targets: Targets) -> Regions:
        """Assign and sample proposals (B, N, 4), valid (B, N); ground truths come before the proposals if they join."""
        gt_index = self.assigner.assign(Priors(proposals, valid, (proposals.shape[1],)), targets)
        boxes, priority = proposals, priorities(targets.seeds, valid, self.stream)
        if self.config.add_ground_truth:
            own = torch.arange(targets.boxes.shape[1], device=boxes.device).expand_as(targets.labels)
            boxes = torch.cat([targets.boxes, boxes], dim=1)
            gt_index = torch.cat([own.masked_fill(~targets.valid, -2), gt_index], dim=1)
            # A stream of their own: a proposal's place then does not depend on how many objects the batch has room for.
            priority = torch.cat([priorities(targets.seeds, own, self.truth_stream), priority], dim=1)
        index, sampled = sample_balanced(
            gt_index, priority, count=self.config.samples, positive_fraction=self.config.positive_fraction
        )
        gt_index = gt_index.gather(1, index).masked_fill(~sampled, -1)
        labels, boxes_of_gt = matched(gt_index, targets, background=self.num_classes)
        boxes = take(boxes, index).masked_fill(~sampled.unsqueeze(2), 0)
        return Regions(boxes, gt_index, labels, boxes_of_gt, sampled)

    def pool(self, pyramid: Pyramid, boxes: Tensor, *, output_size: int) -> Tensor:
        """(B, S, C, O, O) features of boxes (B, S, 4)."""
        maps = pyramid.maps[: len(self.strides)]
        return multilevel_roi_align(maps, self.strides, boxes, output_size=output_size, finest_scale=self.finest_scale)

    def positives(
        self, regions: Regions, pooled: Tensor, sampler: PositiveSampler, *, seeds: Tensor | None = None
    ) -> Positives:
        """Positives among sampled regions, in their order; a feature is the mean of the pooled one (B, S, C, O, O).

        seeds: of the images, as in `Targets`.
        """
        return gather_positives(
            sampler.pick(regions.labels, regions.valid, self.num_classes, seeds=seeds),
            boxes=regions.boxes,
            features=pooled.mean(dim=(3, 4)),
            labels=regions.labels,
            targets=regions.targets,
            background=self.num_classes,
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (B, S, K + 1), background last, or (B, S, K), and deltas (B, S, K, 4) from pooled features."""
        hidden = features.flatten(2)
        for layer in self.fc:
            hidden = layer(hidden).relu()
        return self.cls(hidden), self.deltas(hidden).unflatten(2, (self.num_classes, 4))

    def losses(
        self, logits: Tensor, deltas: Tensor, regions: Regions, counted: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`cls` and `box`, each divided by the number of regions, negatives included, over the ranks.

        counted: `Targets.counted_classes`. Sigmoid classes: the sum over them, as in Detectron2, whose head has an
        unused logit for background besides.
        """
        count = divisor(regions.valid.sum().float())
        positive = regions.valid & (regions.labels < self.num_classes)
        cross_entropy = self._class_loss(logits, regions.labels, counted)
        label = regions.labels.clamp(max=self.num_classes - 1)
        own_deltas = deltas.gather(2, label[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
        # A negative is measured against its own region, which is finite, and weighs nothing.
        goal = torch.where(positive.unsqueeze(2), regions.targets, regions.boxes)
        giou = giou_loss(self.coder.decode(regions.boxes, own_deltas), goal)
        return {
            "cls": self.config.class_weight * (cross_entropy * regions.valid).sum() / count,
            "box": self.config.giou_weight * (giou * positive).sum() / count,
        }

    def _class_loss(self, logits: Tensor, labels: Tensor, counted: Tensor | None) -> Tensor:
        """(B, S) of logits against labels (B, S), K = background."""
        if not self.is_sigmoid:
            return F.cross_entropy(widened(logits).transpose(1, 2), labels, reduction="none")
        logits = only_counted(logits, counted if self.config.federated else None)
        return binary_cross_entropy(logits, one_hot(labels, self.num_classes)).sum(2)

    @torch.no_grad()
    def detect(self, pyramid: Pyramid, proposals: Tensor, valid: Tensor) -> list[Detections]:
        """Detections from proposals (B, N, 4) of which valid (B, N) are meant."""
        logits, deltas = self(self.pool(pyramid, proposals, output_size=self.config.output_size))
        logits = widened(logits)
        scores = logits.sigmoid() if self.is_sigmoid else logits.softmax(-1)[..., :-1]
        boxes = self.coder.decode(proposals.unsqueeze(2), deltas)
        label = torch.arange(self.num_classes, device=scores.device).expand_as(scores)
        scored = (scores > self.config.score_threshold) & valid.unsqueeze(2)
        return best_per_class(
            clip(boxes.flatten(1, 2), pyramid.sizes),
            scores.flatten(1),
            label.flatten(1),
            scored.flatten(1),
            iou_threshold=self.config.nms_iou,
            limit=self.config.max_detections,
        )
