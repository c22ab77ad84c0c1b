"""The whole scheme against the authors' code: features, predictions, every loss term, every gradient norm."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from codetr.ops.boxes import normalise
from codetr.weights.official import convert_official

_HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("oracle_codeform", _HERE / "codeform.py")
codeform = importlib.util.module_from_spec(_spec)
sys.modules["oracle_codeform"] = codeform
_spec.loader.exec_module(codeform)

TERMS = {"cls": "loss_cls", "l1": "loss_bbox", "giou": "loss_iou"}


@pytest.fixture(scope="module")
def oracle(shared):
    return codeform.load(shared)


@torch.no_grad()
def test_features_at_every_door(oracle):
    model = codeform.model(oracle).eval()
    images, out = oracle.images(), oracle.out
    maps = model.base.backbone(images.pixels)
    close(maps, out["backbone"])
    close(model.base.neck(maps), out["neck"])
    memory = model.base.encode(images)
    close(model.adapter(memory).maps, out["query_head"][4])
    proposal = model.base.propose(memory, None)
    close([proposal.encoder.output.logits[0]], [out["query_head"][2]])
    close([proposal.encoder.output.boxes[0]], [out["query_head"][3]])
    decoded = model.base.decode(memory, proposal.groups)
    close([decoded.logits, decoded.boxes], out["query_head"][:2])


def close(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("branch", "theirs"), [("detr", "detr"), ("atss", "one-stage"), ("faster_rcnn", "two-stage")])
def test_predictions_of_every_branch(oracle, branch, theirs):
    model = codeform.model(oracle).eval()
    with torch.no_grad():
        found = model.predict(oracle.images(), branch=branch, max_detections=30)
    # The oracle's images were shrunk to half; its boxes are in pixels of the originals.
    for detections, size, expected in zip(found, oracle.out["shapes"], oracle.out[f"pred/{theirs}"], strict=True):
        rows = [(label, *row.tolist()) for label, per_class in enumerate(expected) for row in per_class]
        detections = detections.rescale(size, (2 * size[0], 2 * size[1]))
        ours = torch.cat([detections.labels[:, None], detections.boxes, detections.scores[:, None]], 1)
        assert len(ours) == len(rows) > 0
        assert_same_rows(ours, torch.tensor(rows))


def assert_same_rows(ours, theirs):
    """Same detections: label, box in pixels (1e-4 of 128 pixels), score, in the order of class, then score."""

    def ordered(rows):
        keys = sorted(range(len(rows)), key=lambda i: (rows[i, 0].item(), -round(rows[i, 5].item(), 5)))
        return rows[keys]

    torch.testing.assert_close(ordered(ours), ordered(theirs), atol=1e-2, rtol=1e-4)
    torch.testing.assert_close(ordered(ours)[:, 5], ordered(theirs)[:, 5], atol=1e-4, rtol=0)


@pytest.fixture
def captured_samples(oracle, monkeypatch):
    """Heads pick the very positives and negatives that the oracle picked; what they hand over must be the same."""
    sizes = oracle.images().sizes

    def install(module, index):
        boxes, labels, targets, _, _, features, _ = oracle.out["captured"]["aux_targets"][index]

        def gather(picked, *, boxes: torch.Tensor, features, labels, targets, background, per_cell=1):
            distance = torch.cdist(normalise(boxes, sizes), stored["boxes"], p=1)
            nearest, rows = distance.min(1)
            assert nearest.max() < 1e-5
            taken = {
                "labels": labels.gather(1, rows),
                "targets": normalise(targets.gather(1, rows[..., None].expand(-1, -1, 4)), sizes),
                "features": features.gather(1, rows[..., None].expand(-1, -1, features.shape[-1])),
            }
            background_rows = taken["labels"] == background
            taken["targets"] = taken["targets"].masked_fill(background_rows[..., None], 0.0)
            assert torch.equal(taken["labels"], stored["labels"])
            for name in ("targets", "features"):
                torch.testing.assert_close(taken[name].detach(), stored[name], atol=1e-4, rtol=1e-4)
            valid = torch.ones_like(rows, dtype=torch.bool)
            return real(
                (rows, valid), boxes=boxes, features=features, labels=labels, targets=targets, background=background
            )

        stored = {"boxes": boxes, "labels": labels, "targets": targets, "features": features}
        real = sys.modules[module].gather_positives
        monkeypatch.setattr(f"{module}.gather_positives", gather)

    install("codetr.models.parts.roi_stage", 0)
    install("codetr.models.parts.dense_head", 1)


def test_losses_and_gradients(oracle, captured_samples):
    # The oracle keeps the published head weights (12 = 6 layers x lambda_2 = 2) on a model of 2 layers: lambda_2 = 6.
    model = codeform.model(oracle, lambda_2=6.0).train()
    losses = model(oracle.images(), oracle.targets())
    expected = expected_losses(oracle.out["losses"])
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4), name
    total = sum(losses.values())
    assert total.item() == pytest.approx(oracle.out["total"], rel=1e-4)
    total.backward()
    compare_gradients(oracle, model)


def expected_losses(stored):
    """Their names to ours; terms that they list by level are sums here."""

    def levels(name):
        return sum(value for key, value in stored.items() if key.startswith(f"{name}["))

    expected = {
        "faster_rcnn.rpn_cls": levels("loss_rpn_cls"),
        "faster_rcnn.rpn_box": levels("loss_rpn_bbox"),
        "faster_rcnn.cls": stored["loss_cls0"],
        "faster_rcnn.box": stored["loss_bbox0"],
        "atss.cls": levels("loss_cls1"),
        "atss.box": levels("loss_bbox1"),
        "atss.centerness": levels("loss_centerness1"),
    }
    for term, theirs in TERMS.items():
        expected[f"encoder.{term}"] = stored[f"enc_{theirs}"]
        for layer, prefix in ((0, "d0."), (1, "")):
            expected[f"match.{layer}.{term}"] = stored[f"{prefix}{theirs}"]
            expected[f"pos.faster_rcnn.{layer}.{term}"] = stored[f"{prefix}{theirs}_aux0"]
            expected[f"pos.atss.{layer}.{term}"] = stored[f"{prefix}{theirs}_aux1"]
    return expected


def compare_gradients(oracle, model):
    """Norms are those of whole tensors, so swapped halves do not matter; 1e-4 covers norms that are zero."""
    gradients = {name: p.grad for name, p in model.named_parameters()}
    names = {e.source: e.detail for e in convert_official(oracle.state).entries if e.outcome == "mapped"}
    compared = 0
    for theirs, norm in oracle.out["grad_norm"].items():
        if theirs.endswith("head_pos_embed.weight"):
            continue
        assert gradients[names[theirs]].norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-4), theirs
        compared += 1
    assert compared == len(oracle.out["grad_norm"]) - 1 == len(gradients)
    scalars = [gradients[f"positive_queries.{n}.position_norm.bias"][256:].sum() for n in ("faster_rcnn", "atss")]
    stored = oracle.out["grad_norm"]["query_head.transformer.head_pos_embed.weight"]
    assert torch.stack(scalars).norm().item() == pytest.approx(stored, rel=1e-3)


def test_every_official_tensor_is_accounted_for(oracle):
    conversion = convert_official(oracle.state)
    assert conversion.count("unmatched") == 0
    assert {e.source for e in conversion.entries if e.outcome == "dropped"} == {
        name for name in oracle.state if name.endswith("num_batches_tracked")
    }
