"""The small Co-Deformable-DETR of the authors' code whose outputs are stored, built from our parts."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from codetr.models.build import ModelSpec, build
from codetr.models.collaborative import Collaborative
from codetr.structures import ImageBatch, Targets
from codetr.weights.conversion import check_against
from codetr.weights.official import convert_official

NUM_CLASSES = 7


@dataclass(frozen=True)
class Oracle:
    """The stored outputs and the official state dict that made them."""

    out: dict[str, Any]
    state: dict[str, Tensor]

    def images(self) -> ImageBatch:
        pixels = self.out["input"]
        sizes = torch.tensor(self.out["shapes"], dtype=torch.float32)
        padding = torch.ones(pixels.shape[0], *pixels.shape[2:], dtype=torch.bool)
        for mask, (height, width) in zip(padding, self.out["shapes"], strict=True):
            mask[:height, :width] = False
        return ImageBatch(pixels, padding, sizes)

    def targets(self) -> Targets:
        counts = tuple(len(labels) for labels in self.out["gt_labels"])
        boxes = torch.zeros(len(counts), max(counts), 4)
        labels = torch.zeros(len(counts), max(counts), dtype=torch.int64)
        valid = torch.zeros(len(counts), max(counts), dtype=torch.bool)
        for i, count in enumerate(counts):
            boxes[i, :count] = self.out["gt_boxes"][i]
            labels[i, :count] = self.out["gt_labels"][i]
            valid[i, :count] = True
        return Targets(boxes, labels, valid, counts)


def load(shared: Path) -> Oracle:
    folder = shared / "data" / "oracles"
    stored = torch.load(folder / "codeform.pt", weights_only=True)
    spec = importlib.util.spec_from_file_location("fill", folder / "fill.py")
    assert spec is not None and spec.loader is not None
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    assert fill.digest(stored["shapes_by_name"]) == stored["digest"]
    state = {name: fill.value(name, shape) for name, shape in stored["shapes_by_name"].items()}
    return Oracle(stored["out"], state)


def spec(**collaborative: Any) -> ModelSpec:
    """The oracle's settings: 2 + 2 layers, 40 queries, samplers that keep everything, anchors in the padding count."""
    everything = 1_000_000
    return ModelSpec.model_validate(
        {
            "base": {
                "name": "deformable_detr",
                "num_queries": 40,
                "encoder_layers": 2,
                "decoder_layers": 2,
                "ffn_dim": 128,
                "dropout": 0.0,
                "box_refine": True,
                "two_stage": True,
                "mixed_selection": True,
                "look_forward_twice": True,
            },
            "backbone": {
                "name": "resnet",
                "model": "resnet50",
                "pretrained": False,
                "frozen_stages": -1,
                "options": {"channels": (8, 16, 32, 64)},
            },
            "neck": {"name": "channel_mapper", "bias": False},
            "heads": {
                "faster_rcnn": {
                    "rpn": {
                        "anchors_in_padding": True,
                        "channels": 64,
                        "samples": everything,
                        "train_candidates": 200,
                        "train_proposals": 60,
                        "test_candidates": 200,
                        "test_proposals": 60,
                    },
                    "roi": {"hidden": 32, "samples": everything, "max_detections": 30},
                },
                "atss": {"anchors_in_padding": True, "nms_candidates": 200, "max_detections": 30},
            },
            "collaborative": {"fill": "negatives", **collaborative},
        }
    )


def model(oracle: Oracle, **collaborative: Any) -> Collaborative:
    """Our model with the oracle's weights, through the converter."""
    detector = build(spec(**collaborative), NUM_CLASSES)
    _narrow_stem(detector.base.backbone.net)
    converted = check_against(convert_official(oracle.state), detector.state_dict())
    detector.load_state_dict(converted.state)
    return detector


def _narrow_stem(net: nn.Module) -> None:
    """timm's stem has 64 channels whatever the width; the oracle's has 8."""
    net.conv1 = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
    net.bn1 = FrozenBatchNorm2d(8)
    net.layer1[0].conv1 = nn.Conv2d(8, 8, 1, bias=False)
    net.layer1[0].downsample[0] = nn.Conv2d(8, 32, 1, bias=False)
