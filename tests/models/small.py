"""A detector small enough to train in a test, and batches for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from codetr.models.build import ModelSpec, build
from codetr.models.collaborative import Collaborative
from codetr.structures import ImageBatch, Targets

NUM_CLASSES = 4
ONE_STAGE = {"num_queries": 9, "ffn_dim": 32, "dropout": 0.0, "encoder_layers": 1, "decoder_layers": 2, "num_heads": 4}
REFINE = {**ONE_STAGE, "box_refine": True}
TWO_STAGE = {**REFINE, "two_stage": True}
PLUS_PLUS = {**TWO_STAGE, "mixed_selection": True, "look_forward_twice": True}
DETR = {"name": "detr", **ONE_STAGE}
CONDITIONAL_DETR = {"name": "conditional_detr", **ONE_STAGE}
SINGLE_SCALE = ("detr", "conditional_detr")
SMALL_RCNN = {
    "rpn": {"channels": 32, "train_candidates": 50, "train_proposals": 30, "test_proposals": 30},
    "roi": {"hidden": 32, "samples": 16},
}
HEADS = {"none": {}, "atss": {"atss": {}}, "faster_rcnn": {"faster_rcnn": SMALL_RCNN}}
HEADS["mask_rcnn"] = {"mask_rcnn": {**SMALL_RCNN, "mask": {"channels": 16, "stacked_convs": 2}}}
HEADS["both"] = {**HEADS["faster_rcnn"], **HEADS["atss"]}
OTHER_HEADS = {name: {name: {}} for name in ("retinanet", "fcos", "paa", "gfl")}


def small_spec(base: dict[str, Any], heads: dict[str, Any], **collaborative: Any) -> ModelSpec:
    """Width 32, a ResNet of eight channels, three levels, or the last one alone for bases of a single scale."""
    name = base.get("name", "deformable_detr")
    neck = {"name": "channel_mapper", "dim": 32, "num_levels": 3, "num_groups": 8}
    return ModelSpec.model_validate(
        {
            "base": {**base, "name": name},
            "backbone": {
                "name": "resnet",
                "model": "resnet10t",
                "pretrained": False,
                "frozen_stages": -1,
                "norm": "frozen",
                "stages": (4,) if name in SINGLE_SCALE else (2, 3, 4),
                "options": {"channels": (8, 16, 16, 16), "stem_width": 8},
            },
            "neck": {"name": "projection", "dim": 32} if name in SINGLE_SCALE else neck,
            "criterion": {"cost": {"kind": "softmax" if name == "detr" else "focal"}},
            "heads": heads,
            "collaborative": {"max_positives": 12, **collaborative},
        }
    )


def small_model(base: dict[str, Any], heads: dict[str, Any], **collaborative: Any) -> Collaborative:
    """Predictions start away from their regular initial values, so that order and gradients show."""
    torch.manual_seed(0)
    model = build(small_spec(base, heads, **collaborative), NUM_CLASSES)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def batch(counts: Sequence[int] = (3, 1), *, masks: bool = False) -> tuple[ImageBatch, Targets]:
    """Images of 96 x 128, the second one padded, with so many objects each; masks: objects fill half of their boxes."""
    generator = torch.Generator().manual_seed(1)
    sizes = torch.tensor([[96.0, 128.0], [70.0, 100.0]])
    padding = torch.zeros(2, 96, 128, dtype=torch.bool)
    padding[1, 70:] = True
    padding[1, :, 100:] = True
    pixels = torch.randn(2, 3, 96, 128, generator=generator).masked_fill(padding[:, None], 0.0)
    most = max(1, *counts)
    corner = torch.rand(2, most, 2, generator=generator) * 40
    side = 12 + torch.rand(2, most, 2, generator=generator) * 45
    labels = torch.randint(0, NUM_CLASSES, (2, most), generator=generator)
    valid = torch.arange(most)[None] < torch.tensor(counts)[:, None]
    boxes = torch.cat([corner, corner + side], -1).masked_fill(~valid[..., None], 0.0)
    crops = (torch.arange(112) < 56).byte().mul(255).expand(2, most, 112, 112).clone() if masks else None
    targets = Targets(boxes, labels.masked_fill(~valid, 0), valid, tuple(counts), crops)
    return ImageBatch(pixels, padding, sizes), targets
