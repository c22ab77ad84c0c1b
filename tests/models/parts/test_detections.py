"""The tail of the heads."""

from __future__ import annotations

import torch

from codetr.models.parts.detections import best_per_class, top_of_levels


def test_top_of_levels() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.3, 0.2], [0.9, 0.1, 0.8, 0.2, 0.3]])
    assert top_of_levels(scores, (3, 2), limit=2).tolist() == [[1, 2, 3, 4], [0, 2, 4, 3]]
    assert top_of_levels(scores, (3, 2), limit=9).shape == (2, 5)


def test_best_per_class() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [50, 50, 60, 60]]] * 2)
    labels = torch.tensor([[0, 0, 1, 0]] * 2)
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.95]] * 2)
    valid = torch.tensor([[True, True, True, True], [False, True, False, False]])
    first, second = best_per_class(boxes, scores, labels, valid, iou_threshold=0.5, limit=5)
    assert first.labels.tolist() == [0, 0, 1]
    assert first.boxes.tolist() == [[50, 50, 60, 60], [0, 0, 10, 10], [0, 0, 10, 9]]
    torch.testing.assert_close(first.scores, torch.tensor([0.95, 0.9, 0.7]))
    assert second.boxes.tolist() == [[0, 0, 10, 9]]
