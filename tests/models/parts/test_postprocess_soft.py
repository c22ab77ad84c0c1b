"""Soft-NMS after the decoder."""

from __future__ import annotations

import math

import torch
from small import batch, small_spec

from codetr.models.build import build
from codetr.models.parts.postprocess import PostprocessConfig, SoftNMSConfig, top_detections
from codetr.structures import DecoderOutput

SIZES = torch.tensor([[100.0, 100.0]])
# The second box lies inside the first and covers 9/10 of it, the third does not touch them.
BOXES = [[0.2, 0.2, 0.2, 0.2], [0.19, 0.2, 0.18, 0.2], [0.7, 0.7, 0.2, 0.2]]


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def output(*scores: list[float]) -> DecoderOutput:
    """Of two classes each."""
    logits = torch.tensor([[[[logit(p) for p in row] for row in scores]]])
    return DecoderOutput(logits, torch.tensor([[BOXES]]))


def soft(**settings: float) -> PostprocessConfig:
    return PostprocessConfig(soft_nms=SoftNMSConfig(**settings))  # type: ignore[arg-type]


def test_a_box_loses_score_to_a_better_one_of_its_class() -> None:
    prediction = output([0.9, 0.002], [0.8, 0.0015], [0.5, 0.6])
    (found,) = top_detections(prediction, SIZES, max_detections=10, config=soft(candidates=4))
    # 0.8 falls to 0.8 * (1 - 0.9); the four best pairs enter, and all stay.
    assert found.labels.tolist() == [0, 1, 0, 0]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.6, 0.5, 0.08]), atol=1e-5, rtol=0)
    expected = torch.tensor([[10.0, 10, 30, 30], [60, 60, 80, 80], [60, 60, 80, 80], [10, 10, 28, 30]])
    torch.testing.assert_close(found.boxes, expected, atol=1e-4, rtol=0)
    (plain,) = top_detections(prediction, SIZES, max_detections=3, config=PostprocessConfig())
    torch.testing.assert_close(plain.scores, torch.tensor([0.9, 0.8, 0.6]), atol=1e-5, rtol=0)


def test_what_falls_to_the_least_score_is_dropped_and_the_best_are_kept() -> None:
    prediction = output([0.9, 0.0005], [0.8, 0.0005], [0.5, 0.6])
    (found,) = top_detections(prediction, SIZES, max_detections=10, config=soft(min_score=0.1))
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.6, 0.5]), atol=1e-5, rtol=0)
    (few,) = top_detections(prediction, SIZES, max_detections=2, config=soft(min_score=0.1))
    assert few.scores.shape == (2,)
    # Below the threshold of overlap nothing falls.
    (loose,) = top_detections(prediction, SIZES, max_detections=4, config=soft(iou_threshold=0.95))
    torch.testing.assert_close(loose.scores, torch.tensor([0.9, 0.8, 0.6, 0.5]), atol=1e-5, rtol=0)


def test_a_spec_turns_it_on() -> None:
    spec = small_spec({"num_queries": 9, "ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1, "num_heads": 4}, {})
    torch.manual_seed(0)
    model = build(spec, 4).eval()
    images, _ = batch()
    with torch.no_grad():
        plain = model.predict(images, max_detections=20)
        model.postprocess = PostprocessConfig(soft_nms=SoftNMSConfig(iou_threshold=0.0, min_score=0.0))
        found = model.predict(images, max_detections=20)
    assert spec.postprocess.soft_nms is None
    assert all(len(d.scores) == 20 for d in plain)
    assert any(a.scores.sum() < b.scores.sum() for a, b in zip(found, plain, strict=True))
