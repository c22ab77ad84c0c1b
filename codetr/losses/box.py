"""Box losses. All are unreduced: the caller weights, sums and divides."""

from __future__ import annotations

from torch import Tensor

from codetr.ops.boxes import aligned_giou, widened


def l1_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Absolute difference (..., 4), summed over nothing; the format of the boxes is the caller's."""
    return (widened(prediction) - widened(target)).abs()


def giou_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """1 - GIoU, (...) in [0, 2], of xyxy boxes (..., 4)."""
    return 1 - aligned_giou(prediction, target)
