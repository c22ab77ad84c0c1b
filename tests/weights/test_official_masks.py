"""The authors' checkpoint with a mask branch: Mask-RCNN is its two-stage head."""

from __future__ import annotations

from typing import Any

import torch

from codetr.api import build
from codetr.spec import load_spec
from codetr.weights.conversion import check_against
from codetr.weights.official import convert_official

MASKS = {"mask": {"channels": 32, "stacked_convs": 2}}


def test_every_tensor_has_its_place(official: Any) -> None:
    document = load_spec(official.spec).model_dump(mode="json")
    document["heads"]["mask_rcnn"] = {**document["heads"].pop("faster_rcnn"), **MASKS, "name": "mask_rcnn"}
    document["data"]["masks"] = True
    model = build(document, classes=3)
    shapes = {
        "convs.0.conv": (32, 32, 3, 3),
        "convs.1.conv": (32, 32, 3, 3),
        "upsample": (32, 32, 2, 2),
        "conv_logits": (3, 32, 1, 1),
    }
    theirs = {f"roi_head.0.mask_head.{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    theirs |= {f"roi_head.0.mask_head.{name}.bias": torch.randn(3 if "logits" in name else 32) for name in shapes}
    conversion = check_against(convert_official({**official.state, **theirs}), model.state_dict())
    assert conversion.count("unmatched") == 0
    missing = set(model.state_dict()) - set(conversion.state)
    assert not {name for name in missing if "mask_rcnn" in name}
    model.load_state_dict(conversion.state)
    mask = model.heads["mask_rcnn"].mask
    for ours, name in ((mask.convs[1], "convs.1.conv"), (mask.upsample, "upsample"), (mask.logits, "conv_logits")):
        assert torch.equal(ours.weight, theirs[f"roi_head.0.mask_head.{name}.weight"])
        assert torch.equal(ours.bias, theirs[f"roi_head.0.mask_head.{name}.bias"])
    boxes = official.model.heads["faster_rcnn"]
    for name, tensor in boxes.state_dict().items():
        assert torch.equal(model.heads["mask_rcnn"].state_dict()[name], tensor), name
