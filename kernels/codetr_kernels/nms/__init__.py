"""Non-maximum suppression of a batch with an output of fixed size, greedy and soft: contract and dispatch.

Dimension key: B images, N boxes, D kept boxes (padded), D = min(limit, N).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from codetr_kernels.nms import op
from codetr_kernels.nms.checks import check, check_decay
from codetr_kernels.nms.reference import batched_nms_reference, soft_nms_reference

__all__ = ["batched_nms", "batched_nms_reference", "soft_nms", "soft_nms_reference"]


def batched_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, *, iou_threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    """The best boxes of each image that no better kept box of the same group overlaps by more than the threshold.

    boxes: (B, N, 4) xyxy, of any floating-point type. scores: (B, N). groups: (B, N) int64 from 0 to 2**31 - 1; a class
    or a level. valid: (B, N) bool.
    Returns index (B, D) int64 by falling score, equal scores by rising index, and kept (B, D) bool, which is True in
    the first slots of a row; index is 0 in the others.

    A box without an area, or with a coordinate that is no finite number, overlaps nothing. A score that is NaN makes a
    box not valid. An IoU equal to the threshold does not suppress, as in torchvision.

    On a GPU nothing waits for the device; the IoU is of float32 (of float64 for float64 boxes). Elsewhere torchvision's
    `nms` runs, image by image, in float64, and must be installed. Not differentiable: the result is numbers of boxes.

    Raises:
        ValueError: arguments that do not fit together.
        ImportError: no kernel for this device, and no torchvision.
    """
    check(boxes, scores, groups, valid, iou_threshold=iou_threshold, limit=limit)
    return op.batched_nms(boxes.detach(), scores.detach(), groups, valid, iou_threshold, limit)


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    valid: Tensor,
    *,
    method: Literal["linear", "gaussian"] = "linear",
    iou_threshold: float = 0.5,
    sigma: float = 0.5,
    min_score: float = 0.001,
    limit: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The box of the best score is picked, the others of its group that overlap it lose score, and so on.

    boxes, groups, valid and the rules for values that are no numbers: as in `batched_nms`. scores: (B, N).
    method: "linear" multiplies the scores of boxes with an IoU above `iou_threshold` by 1 - IoU; "gaussian" those of
    all boxes by exp(-IoU**2 / sigma). min_score: a box whose score is or falls below is dropped.
    Returns index (B, D) int64 in order of picking, of equal scores the lower index first, scores (B, D) as they were
    when picked, in the type of `scores`, and kept (B, D) bool, True in the first slots of a row; index and score are 0
    in the others.

    An IoU equal to the threshold does not decay, as in `batched_nms`; in the paper, and in mmcv, it does. Not
    differentiable.

    Source: Bodla et al., Soft-NMS, arXiv 1704.04503, figure 2 and equations 3 and 5. Raises ValueError for arguments
    that do not fit together.
    """
    check(boxes, scores, groups, valid, iou_threshold=iou_threshold, limit=limit)
    check_decay(method, sigma=sigma, min_score=min_score)
    return op.soft_nms(boxes.detach(), scores.detach(), groups, valid, method, iou_threshold, sigma, min_score, limit)
