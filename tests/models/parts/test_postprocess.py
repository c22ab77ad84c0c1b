"""From decoder output to detections."""

from __future__ import annotations

import torch

from codetr.models.parts.postprocess import top_detections
from codetr.structures import DecoderOutput

SIZES = torch.tensor([[100.0, 200.0]])  # height, width


def output() -> DecoderOutput:
    """Two layers, one image, three queries, two classes; the first layer is nonsense."""
    last = torch.tensor([[[0.0, 3.0], [2.0, 1.0], [-1.0, -4.0]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [0.1, 0.9, 0.4, 0.4], [0.5, 0.5, 1.0, 1.0]]])
    return DecoderOutput(torch.stack([-last, last]), torch.stack([torch.zeros_like(boxes), boxes]))


def test_the_best_pairs_of_query_and_class() -> None:
    (found,) = top_detections(output(), SIZES, max_detections=4)
    assert found.labels.tolist() == [1, 0, 1, 0]
    torch.testing.assert_close(found.scores, torch.tensor([3.0, 2.0, 1.0, 0.0]).sigmoid())
    first, second = [50.0, 25.0, 150.0, 75.0], [0.0, 70.0, 60.0, 100.0]  # the second reaches over two edges
    # Products of sides of up to 200 with float32 centres: 2e-5.
    torch.testing.assert_close(found.boxes, torch.tensor([first, second, second, first]), atol=5e-5, rtol=0)


def test_there_are_no_more_detections_than_pairs() -> None:
    (found,) = top_detections(output(), SIZES, max_detections=100)
    assert found.labels.tolist() == [1, 0, 1, 0, 0, 1]
    assert found.boxes.shape == (6, 4) and found.scores.shape == (6,)
    (few,) = top_detections(output(), SIZES, max_detections=1)
    assert few.labels.tolist() == [1]


def test_each_image_has_its_own_size_and_order() -> None:
    one = output()
    two = DecoderOutput(torch.cat([one.logits, one.logits.flip(2)], 1), torch.cat([one.boxes, one.boxes.flip(2)], 1))
    sizes = torch.tensor([[100.0, 200.0], [10.0, 20.0]])
    first, second = top_detections(two, sizes, max_detections=6)
    assert torch.equal(first.labels, second.labels)
    torch.testing.assert_close(first.boxes, second.boxes * 10, atol=5e-5, rtol=0)
    assert torch.equal(first.boxes, top_detections(one, SIZES, max_detections=6)[0].boxes)


def test_half_precision_logits_are_scored_in_single_precision() -> None:
    # 8 and 8.0625 differ in bfloat16, their sigmoids do not.
    logits = torch.tensor([[[[8.0], [8.0625]]]], dtype=torch.bfloat16)
    (found,) = top_detections(DecoderOutput(logits, torch.rand(1, 1, 2, 4)), SIZES, max_detections=2)
    assert found.scores.dtype == torch.float32
    torch.testing.assert_close(found.scores, torch.tensor([8.0625, 8.0]).sigmoid())
    assert found.scores[0] > found.scores[1]


def test_by_softmax_a_query_counts_once_and_no_object_is_left_out() -> None:
    # Probabilities 1/2, 1/4, 1/4 (no object); 1/8, 1/8, 3/4; 1/6, 2/3, 1/6.
    rows = [[2.0, 1.0, 1.0], [1.0, 1.0, 6.0], [1.0, 4.0, 1.0]]
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [0.2, 0.2, 0.2, 0.2], [0.5, 0.5, 1.0, 1.0]]])
    prediction = DecoderOutput(torch.tensor([[rows]]).log(), boxes[None])
    (found,) = top_detections(prediction, SIZES, max_detections=9, classification="softmax")
    assert found.labels.tolist() == [1, 0, 0]
    torch.testing.assert_close(found.scores, torch.tensor([2 / 3, 1 / 2, 1 / 8]))
    assert found.boxes[0].tolist() == [0.0, 0.0, 200.0, 100.0]
    (few,) = top_detections(prediction, SIZES, max_detections=2, classification="softmax")
    assert few.labels.tolist() == [1, 0]
