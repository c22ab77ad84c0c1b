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


def test_gaussian_decay_needs_no_threshold() -> None:
    prediction = output([0.9, 0.002], [0.8, 0.0015], [0.5, 0.6])
    settings = PostprocessConfig(soft_nms=SoftNMSConfig(method="gaussian", sigma=0.7, candidates=4))
    (found,) = top_detections(prediction, SIZES, max_detections=10, config=settings)
    assert found.labels.tolist() == [0, 1, 0, 0]
    softened = 0.8 * math.exp(-(0.9**2) / 0.7)
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.6, 0.5, softened]), atol=1e-5, rtol=0)


def test_candidates_are_chosen_before_scores_fall() -> None:
    """Two candidates: the third box is not there to take the place of the second, as in mmdetection's order."""
    prediction = output([0.9, 0.0005], [0.8, 0.0005], [0.5, 0.0005])
    (found,) = top_detections(prediction, SIZES, max_detections=2, config=soft(candidates=2))
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.08]), atol=1e-5, rtol=0)
    (others,) = top_detections(prediction, SIZES, max_detections=2, config=soft(candidates=3))
    torch.testing.assert_close(others.scores, torch.tensor([0.9, 0.5]), atol=1e-5, rtol=0)


def test_boxes_in_half_precision_are_brought_to_pixels_in_single() -> None:
    """0.2002 of 2000 pixels: bfloat16 products would be multiples of two pixels."""
    boxes = torch.tensor([[[[0.5, 0.5, 0.2002, 0.2002]]]], dtype=torch.bfloat16)
    (found,) = top_detections(
        DecoderOutput(torch.zeros(1, 1, 1, 1), boxes), torch.tensor([[2000.0, 2000.0]]), max_detections=1
    )
    side = boxes[0, 0, 0, 2].float() * 2000
    assert found.boxes.dtype == torch.float32
    torch.testing.assert_close(found.boxes[0, 2] - found.boxes[0, 0], side, atol=1e-3, rtol=0)
