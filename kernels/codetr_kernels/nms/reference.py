"""Non-maximum suppression without Triton: torchvision's, image by image; soft, in plain PyTorch.

Dimension key: B images, N boxes, D kept boxes (padded).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from codetr_kernels.nms.candidates import arithmetic, ranked, with_area


def batched_nms_reference(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, *, iou_threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Arguments and result as in `batched_nms`. Waits for the device, which numbers of kept boxes are read from.

    torchvision and not PyTorch, because a CPU is far quicker in its loop, which leaves suppressed boxes out, than in
    operations on whole matrices. Raises ImportError where it is not installed.
    """
    if boxes.device.type not in ("cpu", "cuda"):  # The arithmetic is of float64, which others may not have.
        arguments = (tensor.cpu() for tensor in (boxes, scores, groups, valid))
        index, kept = batched_nms_reference(*arguments, iou_threshold=iou_threshold, limit=limit)
        return index.to(boxes.device), kept.to(boxes.device)
    length = min(limit, boxes.shape[1])
    index = torch.zeros(len(boxes), length, dtype=torch.int64, device=boxes.device)
    kept = torch.zeros_like(index, dtype=torch.bool)
    for image, (box, score, group) in enumerate(zip(boxes, ranked(scores, valid), groups, strict=True)):
        row = _nms_image(box, score, group, iou_threshold=iou_threshold, limit=limit)
        index[image, : len(row)] = row
        kept[image, : len(row)] = True
    return index, kept


def _nms_image(boxes: Tensor, scores: Tensor, groups: Tensor, *, iou_threshold: float, limit: int) -> Tensor:
    """Kept indices of one image, best first, at most `limit`. scores: as from `ranked`.

    torchvision's time grows with the square of what it is given, so it is given a prefix of the boxes that doubles
    until enough are kept. Of what was seen before, only the kept boxes are given again: they stay kept.
    """
    order = scores.sort(descending=True, stable=True).indices[: int((scores > -torch.inf).sum())]
    kept, seen = order[:0], 0
    while len(kept) < limit and seen < len(order):
        count = max(seen, limit, FEWEST)
        candidates = torch.cat([kept, order[seen : seen + count]])
        # Ranks for scores: `nms` leaves open which of equal scores comes first.
        rank = torch.arange(len(candidates), 0, -1, dtype=torch.float64, device=boxes.device)
        apart = _apart(boxes[candidates], groups[candidates])
        kept, seen = candidates[_torchvision_nms()(apart, rank, iou_threshold)], seen + count
    return kept[:limit]


FEWEST = 256
"""Boxes that are worth a call of torchvision."""


def _apart(boxes: Tensor, groups: Tensor) -> Tensor:
    """Boxes of one group where they are, those of others beside them, in float64.

    Groups are numbered anew, so that the offset, at most the number of boxes times their extent, costs a float32
    coordinate no bit that matters: at 80 groups of 2000 pixels 2**-36 pixels, at 17000 groups 2**-28.
    """
    boxes = with_area(boxes.double())
    number = groups.unique(return_inverse=True)[1]
    return boxes + (number * (boxes.max() - boxes.min() + 1)).unsqueeze(1)


def _torchvision_nms() -> Callable[[Tensor, Tensor, float], Tensor]:
    try:
        from torchvision.ops import nms
    except ImportError as error:
        raise ImportError(
            "batched_nms runs torchvision.ops.nms where it has no kernel, and torchvision is not installed: "
            "pip install torchvision"
        ) from error
    return nms


def soft_nms_reference(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    valid: Tensor,
    *,
    method: str = "linear",
    iou_threshold: float = 0.5,
    sigma: float = 0.5,
    min_score: float = 0.001,
    limit: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments and result as in `soft_nms`. One turn a kept box, for all images at once."""
    dtype = arithmetic(boxes, scores)
    box, remaining = with_area(boxes.to(dtype)), ranked(scores, valid).to(dtype)
    index = torch.zeros(len(boxes), min(limit, boxes.shape[1]), dtype=torch.int64, device=boxes.device)
    found = torch.full(index.shape, -torch.inf, dtype=dtype, device=boxes.device)
    for turn in range(index.shape[1]):
        remaining = remaining.masked_fill(remaining < min_score, -torch.inf)
        pick = remaining.argmax(1, keepdim=True)
        index[:, turn : turn + 1], found[:, turn : turn + 1] = pick, remaining.gather(1, pick)
        iou = _iou(box, box.gather(1, pick.unsqueeze(2).expand(-1, -1, 4)))
        linear = method == "linear"
        weight = torch.where(iou > iou_threshold, 1 - iou, 1) if linear else torch.exp(-iou.square() / sigma)
        # Not -inf * 0: what is out stays out.
        decays = (groups == groups.gather(1, pick)) & (remaining > -torch.inf)
        remaining = torch.where(decays, remaining * weight, remaining).scatter(1, pick, -torch.inf)
    kept = found > -torch.inf
    return index.masked_fill(~kept, 0), found.masked_fill(~kept, 0).to(scores.dtype), kept


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    """(B, N) of boxes (B, N, 4) and others (B, 1, 4), all as from `with_area`."""
    sides = torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])
    inter = sides.clamp(min=0).prod(-1)
    area, other = ((box[..., 2:] - box[..., :2]).prod(-1) for box in (boxes, others))
    return torch.where(inter > 0, inter / (area + other - inter), 0)
