"""Deformable DETR of mmdetection, one-stage and two-stage: predictions, losses, gradient norms."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from codetr.models.build import ModelSpec, build
from codetr.models.collaborative import Collaborative
from codetr.weights.conversion import Conversion, check_against, convert_state
from codetr.weights.deformable import rules_mmdetection_deformable

_spec = importlib.util.spec_from_file_location("oracle_codeform", Path(__file__).parent / "codeform.py")
assert _spec is not None and _spec.loader is not None
codeform = importlib.util.module_from_spec(_spec)
sys.modules["oracle_codeform"] = codeform
_spec.loader.exec_module(codeform)

NUM_CLASSES = 7
FORMS = {"deformable_detr": {}, "deformable_detr_two_stage": {"box_refine": True, "two_stage": True}}
TERMS = {"cls": "loss_cls", "l1": "loss_bbox", "giou": "loss_iou"}


@pytest.fixture(scope="module", params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def stored(shared: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(shared / "data" / "oracles" / "detrs.pt", weights_only=True)
    return found


def filling(shared: Path) -> Any:
    """The module with the rule of the stored models' values."""
    spec = importlib.util.spec_from_file_location("fill", shared / "data" / "oracles" / "fill.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def state_of(shared: Path, stored: dict[str, Any], form: str) -> dict[str, Tensor]:
    """By the rule of their values. Layers that share their heads hold what was written last, the last layer's."""
    fill = filling(shared)
    entry = stored["models"][form]
    assert fill.digest(entry["shapes_by_name"]) == entry["digest"]
    state = {name: fill.value(name, shape) for name, shape in entry["shapes_by_name"].items()}
    if form == "deformable_detr":
        for name in [name for name in state if "_branches.0." in name]:
            state[name] = state[name.replace("_branches.0.", "_branches.1.")]
    return state


def converted(shared: Path, stored: dict[str, Any], form: str) -> tuple[Collaborative, Conversion]:
    spec = ModelSpec.model_validate(
        {
            "base": {
                "name": "deformable_detr",
                "num_queries": 20,
                "encoder_layers": 2,
                "decoder_layers": 2,
                "ffn_dim": 128,
                "dropout": 0.0,
                **FORMS[form],
            },
            "backbone": {
                "name": "resnet",
                "model": "resnet50",
                "pretrained": False,
                "frozen_stages": -1,
                "options": {"channels": (8, 16, 32, 64)},
            },
            "neck": {"name": "channel_mapper", "bias": False},
        }
    )
    model = build(spec, NUM_CLASSES)
    codeform._narrow_stem(model.base.backbone.net)
    state = state_of(shared, stored, form)
    conversion = check_against(convert_state(state, rules_mmdetection_deformable(state)), model.state_dict())
    model.load_state_dict(conversion.state)
    return model, conversion


@torch.no_grad()
def test_predictions_of_every_layer(shared: Path, stored: dict[str, Any], form: str) -> None:
    model, _ = converted(shared, stored, form)
    images = codeform.Oracle(stored, {}).images()
    memory = model.eval().base.encode(images)
    output = model.base.decode(memory, model.base.propose(memory, None).groups)
    for ours, theirs in zip((output.logits, output.boxes), stored["models"][form]["out"]["forward"], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_detections(shared: Path, stored: dict[str, Any], form: str) -> None:
    model, _ = converted(shared, stored, form)
    found = model.eval().predict(codeform.Oracle(stored, {}).images(), max_detections=20)
    # The oracle's images were shrunk to half; its boxes are in pixels of the originals.
    for ours, size, theirs in zip(found, stored["shapes"], stored["models"][form]["out"]["pred"], strict=True):
        assert torch.equal(ours.labels, theirs["labels"])
        torch.testing.assert_close(ours.scores, theirs["scores"], atol=1e-4, rtol=0)
        boxes = ours.rescale(size, (2 * size[0], 2 * size[1])).boxes
        # 1e-4 of 256 pixels.
        torch.testing.assert_close(boxes, theirs["bboxes"], atol=2.5e-2, rtol=0)


def test_losses_and_gradients(shared: Path, stored: dict[str, Any], form: str) -> None:
    model, conversion = converted(shared, stored, form)
    out = stored["models"][form]["out"]
    losses = model.train()(codeform.Oracle(stored, {}).images(), codeform.Oracle(stored, {}).targets())
    prefixes = {"match.0": "d0.", "match.1": "", "encoder": "enc_"}
    expected = {
        f"{ours}.{term}": out["losses"][f"{prefix}{theirs}"]
        for ours, prefix in prefixes.items()
        for term, theirs in TERMS.items()
        if f"{prefix}{theirs}" in out["losses"]
    }
    assert len(expected) == len(out["losses"]) and set(losses) == set(expected)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4), name
    total = torch.stack(list(losses.values())).sum()
    assert total.item() == pytest.approx(out["total"], rel=1e-4)
    total.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad for name, p in model.named_parameters()}
    names = {entry.source: entry.detail for entry in conversion.entries if entry.outcome == "mapped"}
    assert len(out["grad_norm"]) == len(gradients)
    for theirs, norm in out["grad_norm"].items():
        gradient = gradients[names[theirs]]
        # 1e-4 covers norms that are zero.
        assert gradient is not None and gradient.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-4), theirs


def test_every_tensor_is_accounted_for(shared: Path, stored: dict[str, Any], form: str) -> None:
    _, conversion = converted(shared, stored, form)
    assert conversion.count("unmatched") == 0
    dropped = [entry.source for entry in conversion.entries if entry.outcome == "dropped"]
    assert all(name.endswith("num_batches_tracked") or "_branches.1." in name for name in dropped)
    assert any("_branches.1." in name for name in dropped) == (form == "deformable_detr")
