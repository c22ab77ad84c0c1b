"""What the one-stage heads share: towers, predictions at every prior, positives, detections.

A head adds its priors, its assignment (`assign`), the meaning of its box numbers (`decode`), and its losses (`losses`).

Parameters: `cls_tower`, `box_tower`, the predictions `cls` and `box`, one logit of quality under the name that the head
gives it, and `scales.<l>` (1), a factor on the box numbers of each level.

Dimension key: B images, P priors, K classes, C numbers of a box, N candidates.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from codetr.assigners.contract import IGNORED, Priors, matched
from codetr.config import Section
from codetr.losses.federated import only_counted
from codetr.losses.focal import quality_focal_loss, sigmoid_focal_loss_rows
from codetr.losses.focal_settings import FocalSettings
from codetr.models.parts.conv_tower import ConvTower, init_normal
from codetr.models.parts.detections import best_per_class, top_of_levels
from codetr.models.parts.positive_sampler import PositiveSampler, gather_positives
from codetr.models.parts.priors import AnchorGrid, flat_cells
from codetr.ops.boxes import aligned_iou, clip, widened
from codetr.ops.gather import take
from codetr.structures import Detections, HeadOutput, Positives, Pyramid, Targets


class DenseConfig(Section):
    """What every one-stage head may be told."""

    stacked_convs: int = Field(1, ge=0, description="layers of each tower (paper Table 12)")
    anchors_in_padding: bool = Field(False, description="anchors in the padding of the batch are negatives too")
    class_weight: float = Field(1.0, ge=0, description="weight of the class loss")
    federated: bool = Field(False, description="only the classes drawn for an image count (needs data.federated)")
    nms_candidates: int = Field(1000, ge=1, description="best scores of a level that enter NMS")
    nms_iou: float = Field(0.6, gt=0, le=1, description="overlap above which NMS drops a box")
    score_threshold: float = Field(0.0, ge=0, lt=1, description="predictions must score more than this")
    max_detections: int = Field(100, ge=1, description="detections of an image")


class FocalConfig(FocalSettings, DenseConfig):
    """Of the heads whose class loss is one of the focal losses."""


class Predictions(NamedTuple):
    """logits: (B, P, K). box: (B, P, C) in at least float32. quality: (B, P) logits, or None."""

    logits: Tensor
    box: Tensor
    quality: Tensor | None


@dataclass(frozen=True)
class DenseOutput:
    """What a head made of a pyramid in training.

    strides: (1, P, 1) pixels per cell. logits, box, quality: as in `Predictions`. boxes: (B, P, 4) xyxy, of `box`.
    """

    priors: Priors
    strides: Tensor
    logits: Tensor
    box: Tensor
    quality: Tensor | None
    boxes: Tensor


@dataclass(frozen=True)
class Goals:
    """What an assignment asks of the priors.

    labels: (B, P) int64, K = background. boxes: (B, P, 4) of the ground truths, 0 where there is none. measured: the
    same, but the prior itself where there is none: a negative is measured against a box that is finite, and weighs
    nothing. counted: (B, P) bool, not ignored. positive: (B, P) bool.
    """

    labels: Tensor
    boxes: Tensor
    measured: Tensor
    counted: Tensor
    positive: Tensor

    def num_positives(self, *, least: int) -> Tensor:
        """The number of positives on this rank, each image counted as having at least `least`; float."""
        return self.positive.sum(1).clamp(min=least).sum().float()


def focal_rows(config: FocalConfig, output: DenseOutput, goals: Goals) -> Tensor:
    """(B, P) class loss of each prior, summed over the classes, 0 where it does not count."""
    if config.class_loss == "focal":
        return sigmoid_focal_loss_rows(
            output.logits, goals.labels, goals.counted, alpha=config.alpha, gamma=config.gamma
        )
    quality = aligned_iou(output.boxes.detach(), goals.measured).clamp(max=1)
    return quality_focal_loss(output.logits, goals.labels, quality, goals.counted, beta=config.gamma)


class DenseHead(nn.Module):
    """To be inherited beside `Head` by a one-stage head.

    anchors: the priors. box_channels: C. quality: the name of the logit of quality, if there is one. quality_tower:
    the tower that it is predicted from. scaled: with a learned factor on the box numbers of each level. tower: None for
    `ConvTower`, otherwise what makes each of the two.
    """

    def __init__(
        self,
        config: DenseConfig,
        *,
        dim: int,
        num_classes: int,
        strides: tuple[int, ...],
        sampler: PositiveSampler,
        anchors: AnchorGrid,
        box_channels: int = 4,
        quality: str | None = None,
        quality_tower: Literal["cls", "box"] = "box",
        scaled: bool = True,
        towers: tuple[nn.Module, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.sampler, self.anchors = sampler, anchors
        self.quality_name, self.quality_tower = quality, quality_tower
        if towers is None:
            towers = ConvTower(dim, depth=config.stacked_convs), ConvTower(dim, depth=config.stacked_convs)
        self.cls_tower, self.box_tower = towers
        self.cls = nn.Conv2d(dim, len(anchors) * num_classes, 3, padding=1)
        self.box = nn.Conv2d(dim, len(anchors) * box_channels, 3, padding=1)
        if quality is not None:
            self.add_module(quality, nn.Conv2d(dim, len(anchors), 3, padding=1))
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(1)) for _ in strides) if scaled else None
        init_normal(self, std=0.01)
        assert self.cls.bias is not None
        nn.init.constant_(self.cls.bias, -math.log(99))  # every class starts at a probability of 0.01

    @abstractmethod
    def assign(self, output: DenseOutput, targets: Targets) -> Tensor:
        """gt_index (B, P) int64, as an `Assigner` gives it."""

    @abstractmethod
    def losses(self, output: DenseOutput, goals: Goals) -> dict[str, Tensor]:
        """Weighted scalars by their terms. With `federated`, the logits of classes that do not count are such that a
        sigmoid loss of them is 0 (`losses.federated`)."""

    @abstractmethod
    def decode(self, priors: Tensor, box: Tensor, strides: Tensor) -> Tensor:
        """Boxes (B, N, 4) xyxy pixels. priors: (B, N, 4) or (N, 4). box: (B, N, C). strides: (B, N, 1) or (1, N, 1)."""

    def score(self, scores: Tensor, quality: Tensor | None) -> Tensor:
        """What suppression ranks by: the class score (B, N) times the quality, if there is one."""
        return scores if quality is None else scores * quality

    def forward(self, pyramid: Pyramid, targets: Targets) -> HeadOutput:
        """Losses and positives of every image."""
        output = self._output(pyramid)
        goals = self._goals(self.assign(output, targets), output.priors, targets)
        positives = self._positives(pyramid, output.priors, goals, seeds=targets.seeds)
        counted = targets.counted_classes if self.config.federated else None
        judged = replace(output, logits=only_counted(output.logits, counted))
        return HeadOutput(self.losses(judged, goals), positives)

    def _output(self, pyramid: Pyramid) -> DenseOutput:
        priors = self.anchors.priors(pyramid)
        strides = level_strides(priors, pyramid.strides)
        predictions = self._predictions(pyramid.maps)
        boxes = self.decode(priors.boxes, predictions.box, strides)
        return DenseOutput(priors, strides, *predictions, boxes)

    def _predictions(self, maps: tuple[Tensor, ...]) -> Predictions:
        logits: list[Tensor] = []
        box: list[Tensor] = []
        quality: list[Tensor] = []
        for level, features in enumerate(maps):
            of_class, of_box = self.cls_tower(features), self.box_tower(features)
            logits.append(self.cls(of_class))
            numbers = widened(self.box(of_box))
            box.append(numbers if self.scales is None else numbers * self.scales[level])
            if self.quality_name is not None:
                layer = self.get_submodule(self.quality_name)
                quality.append(layer(of_box if self.quality_tower == "box" else of_class))
        per_cell = len(self.anchors)
        flat = flat_cells(tuple(quality), per_cell=per_cell).squeeze(2) if quality else None
        return Predictions(
            flat_cells(tuple(logits), per_cell=per_cell), flat_cells(tuple(box), per_cell=per_cell), flat
        )

    def _goals(self, gt_index: Tensor, priors: Priors, targets: Targets) -> Goals:
        """Of an assignment (B, P)."""
        labels, boxes = matched(gt_index, targets, background=self.num_classes)
        positive = labels < self.num_classes
        measured = torch.where(positive.unsqueeze(2), boxes, priors.boxes)
        return Goals(labels, boxes, measured, gt_index != IGNORED, positive)

    def _positives(self, pyramid: Pyramid, priors: Priors, goals: Goals, *, seeds: Tensor | None = None) -> Positives:
        """Priors with the features of their cells, picked by the sampler among all that are counted.

        seeds: of the images, as in `Targets`.
        """
        return gather_positives(
            self.sampler.pick(goals.labels, goals.counted, self.num_classes, seeds=seeds),
            boxes=priors.of_images(),
            features=flat_cells(pyramid.maps),
            labels=goals.labels,
            targets=goals.boxes,
            background=self.num_classes,
            per_cell=len(self.anchors),
        )

    @torch.no_grad()
    def predict(self, pyramid: Pyramid) -> list[Detections]:
        """The head as a detector on its own (paper Table 11): boxes in pixels of the images in the batch.

        The best class scores of each level are candidates; suppression ranks them by `score`.
        """
        config = self.config
        priors = self.anchors.priors(pyramid)
        logits, box, quality = self._predictions(pyramid.maps)
        scores = widened(logits).sigmoid().flatten(1)
        sizes = [size * self.num_classes for size in priors.level_sizes]
        index = top_of_levels(scores, sizes, limit=config.nms_candidates)
        anchor, label = index // self.num_classes, index % self.num_classes
        scores = scores.gather(1, index)
        strides = level_strides(priors, pyramid.strides).expand(len(anchor), -1, -1)
        boxes = self.decode(take(priors.of_images(), anchor), take(box, anchor), take(strides, anchor))
        certain = None if quality is None else widened(quality).sigmoid().gather(1, anchor)
        return best_per_class(
            clip(boxes, pyramid.sizes),
            self.score(scores, certain),
            label,
            scores > config.score_threshold,
            iou_threshold=config.nms_iou,
            limit=config.max_detections,
        )


def level_strides(priors: Priors, strides: tuple[int, ...]) -> Tensor:
    """(1, P, 1) pixels per cell of each prior's level. Filled on the device: host values would be copied over."""
    device = priors.boxes.device
    levels = zip(priors.level_sizes, strides, strict=True)
    return torch.cat([torch.full((1, size, 1), float(stride), device=device) for size, stride in levels], dim=1)
