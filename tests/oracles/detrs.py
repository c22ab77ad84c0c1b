"""mmdetection's small DETRs whose outputs are stored, built from our parts."""

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
from codetr.weights.conversion import Conversion, check_against
from codetr.weights.layouts import recognise

NUM_CLASSES = 7
# The settings that all of them have; the stored models dropped nothing out.
SIZES = {"num_queries": 20, "encoder_layers": 2, "decoder_layers": 2, "ffn_dim": 128, "dropout": 0.0}
PROJECTION = {"stages": [4], "neck": {"name": "projection"}}
SOFTMAX = {"class_weight": 1.0, "cost": {"kind": "softmax", "class_weight": 1.0}}
FOCAL = {"class_weight": 2.0, "cost": {"kind": "focal", "class_weight": 2.0}}
# By the name in the file: the base, where it reads the backbone, and how it classifies.
KINDS: dict[str, dict[str, Any]] = {
    "detr": {"base": {"name": "detr", **SIZES}, **PROJECTION, "criterion": SOFTMAX},
    "conditional_detr": {"base": {"name": "conditional_detr", **SIZES}, **PROJECTION, "criterion": FOCAL},
}


@dataclass(frozen=True)
class Oracle:
    """The stored outputs of a model, its settings, and the state dict that made them."""

    kind: str
    inputs: dict[str, Any]
    out: dict[str, Any]
    state: dict[str, Tensor]

    def images(self) -> ImageBatch:
        pixels, shapes = self.inputs["input"], self.inputs["shapes"]
        padding = torch.ones(pixels.shape[0], *pixels.shape[2:], dtype=torch.bool)
        for mask, (height, width) in zip(padding, shapes, strict=True):
            mask[:height, :width] = False
        return ImageBatch(pixels, padding, torch.tensor(shapes, dtype=torch.float32))

    def targets(self) -> Targets:
        given = self.inputs["gt_labels"]
        counts = tuple(len(labels) for labels in given)
        boxes = torch.zeros(len(counts), max(counts), 4)
        labels = torch.zeros(len(counts), max(counts), dtype=torch.int64)
        valid = torch.zeros(len(counts), max(counts), dtype=torch.bool)
        for i, count in enumerate(counts):
            boxes[i, :count] = self.inputs["gt_boxes"][i]
            labels[i, :count] = given[i]
            valid[i, :count] = True
        return Targets(boxes, labels, valid, counts)

    def conversion(self) -> Conversion:
        return recognise(self.state).convert(self.state)

    def model(self) -> Collaborative:
        """Ours with the stored weights, through the converter."""
        kind = KINDS[self.kind]
        backbone = {
            "name": "resnet",
            "model": "resnet50",
            "pretrained": False,
            "frozen_stages": -1,
            "stages": kind["stages"],
            "options": {"channels": (8, 16, 32, 64)},
        }
        spec = {"base": kind["base"], "backbone": backbone, "neck": kind["neck"], "criterion": kind["criterion"]}
        detector = build(ModelSpec.model_validate(spec), NUM_CLASSES)
        _narrow_stem(detector.base.backbone.net)
        detector.load_state_dict(check_against(self.conversion(), detector.state_dict()).state)
        return detector


def load(shared: Path, kind: str) -> Oracle:
    folder = shared / "data" / "oracles"
    stored = torch.load(folder / "detrs.pt", weights_only=True)
    spec = importlib.util.spec_from_file_location("fill", folder / "fill.py")
    assert spec is not None and spec.loader is not None
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    model = stored["models"][kind]
    shapes = model["shapes_by_name"]
    assert fill.digest(shapes) == model["digest"]
    state = {name: fill.value(name, shape) for name, shape in shapes.items()}
    return Oracle(kind, stored, model["out"], state)


def _narrow_stem(net: nn.Module) -> None:
    """timm's stem has 64 channels whatever the width; the stored models' has 8."""
    net.conv1 = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
    net.bn1 = FrozenBatchNorm2d(8)
    net.layer1[0].conv1 = nn.Conv2d(8, 8, 1, bias=False)
    net.layer1[0].downsample[0] = nn.Conv2d(8, 32, 1, bias=False)
