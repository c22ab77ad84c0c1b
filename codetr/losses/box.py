"""Box losses. All are unreduced: the caller weights, sums and divides."""

from __future__ import annotations

from codetr_kernels.boxes import ciou_loss, diou_loss, giou_loss, iou_loss
from torch import Tensor

from codetr.ops.boxes import widened

__all__ = ["ciou_loss", "diou_loss", "giou_loss", "iou_loss", "l1_loss"]


def l1_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Absolute difference (..., 4), summed over nothing; the format of the boxes is the caller's."""
    return (widened(prediction) - widened(target)).abs()
