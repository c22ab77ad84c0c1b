"""Mask-RCNN: Faster-RCNN, whose positive regions learn the masks of their objects too.

Paper: He et al., Mask R-CNN. As in Co-DETR: nine anchors a cell, boxes of the second stage trained by GIoU after
decoding. The data must have masks (`data.masks`).

Parameters: see `codetr.models.parts.rpn` under `rpn.`, `codetr.models.parts.roi_stage` under `roi.` and
`codetr.models.parts.mask_branch` under `mask.`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, final

import torch
from pydantic import Field

from codetr.config import Section
from codetr.models.heads.contract import Head
from codetr.models.parts.mask_branch import MaskBranch, MaskBranchConfig
from codetr.models.parts.positive_sampler import PositiveSampler
from codetr.models.parts.roi_stage import RoiConfig, RoiStage
from codetr.models.parts.rpn import Rpn, RpnConfig
from codetr.structures import Detections, HeadOutput, Pyramid, Targets


@final
class MaskRCNN(Head):
    """Losses `rpn_cls`, `rpn_box`, `cls` and `box` as of Faster-RCNN, and `mask` (binary cross-entropy).

    The positives are those of Faster-RCNN; masks have no part in them.
    """

    has_masks: ClassVar[bool] = True

    class Config(Section):
        rpn: RpnConfig = Field(RpnConfig(), description="region proposal network")
        roi: RoiConfig = Field(RoiConfig(), description="second stage")
        mask: MaskBranchConfig = Field(MaskBranchConfig(), description="mask branch")

    def __init__(
        self, config: Config, *, dim: int, num_classes: int, strides: tuple[int, ...], sampler: PositiveSampler
    ) -> None:
        super().__init__()
        # No image has more positives than its sampled share: further slots could only be padding.
        self.sampler = replace(sampler, limit=min(sampler.limit, config.roi.max_positives))
        self.rpn = Rpn(config.rpn, dim=dim, stream=sampler.stream)
        self.roi = RoiStage(config.roi, dim=dim, num_classes=num_classes, strides=strides, stream=sampler.stream)
        self.mask = MaskBranch(config.mask, dim=dim, num_classes=num_classes)

    def forward(self, pyramid: Pyramid, targets: Targets) -> HeadOutput:
        first = self.rpn(pyramid)
        proposals, valid = self.rpn.proposals(first, pyramid.sizes, train=True)
        regions = self.roi.sample(proposals, valid, targets)
        pooled = self.roi.pool(pyramid, regions.boxes, output_size=self.roi.config.output_size)
        positives = self.roi.positives(regions, pooled, self.sampler, seeds=targets.seeds)
        logits, deltas = self.roi(pooled)
        losses = self.rpn.losses(first, targets) | self.roi.losses(logits, deltas, regions, targets.counted_classes)
        return HeadOutput(losses | self.mask.losses(self.roi, pyramid, regions, targets), positives)

    @torch.no_grad()
    def predict(self, pyramid: Pyramid) -> list[Detections]:
        proposals, valid = self.rpn.proposals(self.rpn(pyramid), pyramid.sizes, train=False)
        return self.mask.detect(self.roi, pyramid, self.roi.detect(pyramid, proposals, valid))
