"""Faster-RCNN: a region proposal network and a second stage on the proposals.

Paper: Ren et al., Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks. As in Co-DETR: nine
anchors a cell, boxes of the second stage trained by GIoU after decoding.

Parameters: see `codetr.models.parts.rpn` under `rpn.` and `codetr.models.parts.roi_stage` under `roi.`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from pydantic import Field

from codetr.config import Section
from codetr.models.heads.contract import Head
from codetr.models.parts.positive_sampler import PositiveSampler
from codetr.models.parts.roi_stage import RoiConfig, RoiStage
from codetr.models.parts.rpn import Rpn, RpnConfig
from codetr.structures import Detections, HeadOutput, Pyramid, Targets


@final
class FasterRCNN(Head):
    """Losses `rpn_cls` (cross-entropy), `rpn_box` (L1 of deltas), `cls` (cross-entropy) and `box` (GIoU).

    The positives are sampled regions, ground truths among them; the candidates handed to the sampler are the regions of
    `RoiStage.sample` in their order. The feature of a region is the mean of its pooled feature.
    """

    class Config(Section):
        rpn: RpnConfig = Field(RpnConfig(), description="region proposal network")
        roi: RoiConfig = Field(RoiConfig(), description="second stage")

    def __init__(
        self, config: Config, *, dim: int, num_classes: int, strides: tuple[int, ...], sampler: PositiveSampler
    ) -> None:
        super().__init__()
        # No image has more positives than its sampled share: further slots could only be padding.
        self.sampler = replace(sampler, limit=min(sampler.limit, config.roi.max_positives))
        self.rpn = Rpn(config.rpn, dim=dim, stream=sampler.stream)
        self.roi = RoiStage(config.roi, dim=dim, num_classes=num_classes, strides=strides, stream=sampler.stream)

    def forward(self, pyramid: Pyramid, targets: Targets) -> HeadOutput:
        first = self.rpn(pyramid)
        proposals, valid = self.rpn.proposals(first, pyramid.sizes, train=True)
        regions = self.roi.sample(proposals, valid, targets)
        pooled = self.roi.pool(pyramid, regions.boxes, output_size=self.roi.config.output_size)
        logits, deltas = self.roi(pooled)
        positives = self.roi.positives(regions, pooled, self.sampler, seeds=targets.seeds)
        losses = self.rpn.losses(first, targets) | self.roi.losses(logits, deltas, regions, targets.counted_classes)
        return HeadOutput(losses, positives)

    @torch.no_grad()
    def predict(self, pyramid: Pyramid) -> list[Detections]:
        proposals, valid = self.rpn.proposals(self.rpn(pyramid), pyramid.sizes, train=False)
        return self.roi.detect(pyramid, proposals, valid)
