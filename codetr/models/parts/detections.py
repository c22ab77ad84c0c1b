"""From scored boxes to detections: the tail that all one-to-many heads share.

Dimension key: B images, N boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from codetr.ops.gather import take
from codetr.ops.nms import nms
from codetr.structures import Detections


def top_of_levels(scores: Tensor, level_sizes: Sequence[int], *, limit: int) -> Tensor:
    """Indices (B, N) into scores (B, P) of the best `limit` of each level; a smaller level gives all of its own."""
    found: list[Tensor] = []
    start = 0
    for size in level_sizes:
        found.append(scores[:, start : start + size].topk(min(limit, size), dim=1).indices + start)
        start += size
    return torch.cat(found, dim=1)


def best_per_class(
    boxes: Tensor, scores: Tensor, labels: Tensor, valid: Tensor, *, iou_threshold: float, limit: int
) -> list[Detections]:
    """Class-wise non-maximum suppression, then the best `limit` of each image.

    boxes: (B, N, 4) xyxy pixels. scores, labels: (B, N). valid: (B, N) bool.
    """
    index, kept = nms(boxes, scores, labels, valid, iou_threshold=iou_threshold, limit=limit)
    rows = zip(take(boxes, index), scores.gather(1, index), labels.gather(1, index), strict=True)
    # The kept ones come first. Their numbers are all that is read from the device, once for the batch.
    counts = kept.sum(1).tolist()
    return [
        Detections(box[:count], score[:count], label[:count])
        for (box, score, label), count in zip(rows, counts, strict=True)
    ]
