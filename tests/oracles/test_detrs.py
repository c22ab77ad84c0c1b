"""The bases against mmdetection's: predictions of every layer, every loss term, every gradient norm."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

_spec = importlib.util.spec_from_file_location("oracle_detrs", Path(__file__).parent / "detrs.py")
detrs = importlib.util.module_from_spec(_spec)
sys.modules["oracle_detrs"] = detrs
_spec.loader.exec_module(detrs)

TERMS = {"cls": "loss_cls", "l1": "loss_bbox", "giou": "loss_iou"}


@pytest.fixture(scope="module", params=list(detrs.KINDS))
def oracle(shared, request):
    return detrs.load(shared, request.param)


@torch.no_grad()
def test_predictions_of_every_layer(oracle):
    base = oracle.model().eval().base
    memory = base.encode(oracle.images())
    output = base.decode(memory, base.propose(memory, None).groups)
    logits, boxes = oracle.out["forward"]
    torch.testing.assert_close(output.logits, logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.boxes, boxes, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_detections(oracle):
    found = oracle.model().eval().predict(oracle.images(), max_detections=20)
    # The stored images were shrunk to half; their boxes are in pixels of the originals.
    for ours, theirs, size in zip(found, oracle.out["pred"], oracle.inputs["shapes"], strict=True):
        ours = ours.rescale(size, (2 * size[0], 2 * size[1]))
        assert len(ours.scores) == len(theirs["scores"]) > 0
        torch.testing.assert_close(ours.scores, theirs["scores"], atol=1e-4, rtol=0)
        order = ordered(ours.scores, ours.labels, ours.boxes)
        their_order = ordered(theirs["scores"], theirs["labels"], theirs["bboxes"])
        assert torch.equal(ours.labels[order], theirs["labels"][their_order])
        # A hundredth of a pixel: 1e-4 of 128.
        torch.testing.assert_close(ours.boxes[order], theirs["bboxes"][their_order], atol=1e-2, rtol=1e-4)


def ordered(scores, labels, boxes):
    """Rows by score; some scores are equal but for rounding, those by label and box."""
    rows = zip(scores.tolist(), labels.tolist(), boxes.round().tolist(), strict=True)
    keys = [(-round(score, 4), label, box) for score, label, box in rows]
    return sorted(range(len(keys)), key=keys.__getitem__)


def test_losses_and_gradients(oracle):
    model = oracle.model().train()
    losses = model(oracle.images(), oracle.targets())
    stored = oracle.out["losses"]
    assert len(losses) == len(stored)
    for term, theirs in TERMS.items():
        for layer, prefix in ((0, "d0."), (1, "")):
            assert losses[f"match.{layer}.{term}"].item() == pytest.approx(stored[f"{prefix}{theirs}"], rel=1e-4)
    total = sum(losses.values())
    assert total.item() == pytest.approx(oracle.out["total"], rel=1e-4)
    total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    names = {e.source: e.detail for e in oracle.conversion().entries if e.outcome == "mapped"}
    for theirs, norm in oracle.out["grad_norm"].items():
        # 1e-4 covers norms that are zero.
        assert gradients[names[theirs]].norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-4), theirs
    assert len(gradients) == len(oracle.out["grad_norm"])


def test_every_tensor_is_accounted_for(oracle):
    conversion = oracle.conversion()
    assert conversion.count("unmatched") == 0
    assert {e.source for e in conversion.entries if e.outcome == "dropped"} == {
        name for name in oracle.state if name.endswith("num_batches_tracked")
    }
