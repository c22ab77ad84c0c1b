"""Greedy non-maximum suppression of a padded batch.

Dimension key: B images, N boxes, D kept boxes (padded).
"""

from __future__ import annotations

import torch
from torch import Tensor


def nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, *, iou_threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Indices of the best boxes of each image that no better box of the same group overlaps by more than the threshold.

    boxes: (B, N, 4) xyxy. scores: (B, N). groups: (B, N) int64, not negative; a class or a level. valid: (B, N) bool.
    Returns index (B, D) int64 by falling score, equal scores by rising index, and valid (B, D) bool, D = min(limit, N).

    The number of kept boxes is known only after the fact, so each image costs host synchronisations on a GPU.
    """
    scores = scores.masked_fill(~valid, -torch.inf)
    groups = (groups + 1).masked_fill(~valid, 0)
    rows = [
        _nms_image(*image, iou_threshold=iou_threshold, limit=limit)
        for image in zip(boxes.double(), scores, groups, strict=True)
    ]
    length = min(limit, boxes.shape[1])
    index = torch.stack([torch.nn.functional.pad(row, (0, length - len(row))) for row in rows])
    kept = torch.stack([torch.arange(length, device=boxes.device) < len(row) for row in rows])
    return index, kept & valid.gather(1, index)


def _nms_image(boxes: Tensor, scores: Tensor, groups: Tensor, *, iou_threshold: float, limit: int) -> Tensor:
    """Kept indices of one image, best first, at most `limit`.

    What a greedy pass keeps of the best n boxes does not depend on the rest, so n grows until enough are kept:
    class-wise suppression of 1000 proposals in 80 classes then needs no matrix of 80000 x 80000.
    """
    from torchvision.ops import nms as torchvision_nms

    if boxes.numel() == 0:
        return groups
    order = scores.sort(descending=True, stable=True).indices
    # In double precision the offset that sets groups apart costs no accuracy, however many groups there are.
    apart = boxes + (groups * (boxes.max() - boxes.min() + 1)).unsqueeze(1)
    count = 4 * limit
    while True:
        best = order[:count]
        kept = best[torchvision_nms(apart[best], scores[best].double(), iou_threshold)]
        if len(kept) >= limit or count >= len(order):
            return kept[:limit]
        count *= 4
