"""Greedy non-maximum suppression of a padded batch.

Dimension key: B images, N boxes, D kept boxes (padded).
"""

from __future__ import annotations

from codetr_kernels.nms import batched_nms
from torch import Tensor


def nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, *, iou_threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Indices of the best boxes of each image that no better box of the same group overlaps by more than the threshold.

    boxes: (B, N, 4) xyxy. scores: (B, N). groups: (B, N) int64, not negative; a class or a level. valid: (B, N) bool.
    Returns index (B, D) int64 by falling score, equal scores by rising index, and valid (B, D) bool, D = min(limit, N).
    The valid ones come first in a row.

    Nothing waits for a GPU that has the kernel (`codetr_kernels.batched_nms`).
    """
    return batched_nms(boxes, scores, groups, valid, iou_threshold=iou_threshold, limit=limit)
