"""One-to-one assignment of queries to objects (Hungarian matching)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from codetr.config import Section
from codetr.ops.boxes import cxcywh_to_xyxy, pairwise_giou

_LARGE_COST = 1e6


class MatchingCost(Section):
    """The matching cost."""

    class_weight: float = Field(2.0, ge=0, description="weight of the focal class cost")
    l1_weight: float = Field(5.0, ge=0, description="weight of the L1 distance of the boxes")
    giou_weight: float = Field(2.0, ge=0, description="weight of their negative GIoU")
    alpha: float = Field(0.25, ge=0, le=1, description="focal class cost: weight of the positive part")
    gamma: float = Field(2.0, ge=0, description="focal class cost: exponent")


@torch.no_grad()
def hungarian_match(
    logits: Tensor,
    boxes: Tensor,
    *,
    target_labels: Tensor,
    target_boxes: Tensor,
    counts: tuple[int, ...],
    cost: MatchingCost,
    repeat: int = 1,
    valid: Tensor | None = None,
) -> Tensor:
    """The ground truth of each query, (L, B, N) int64, -1 where none.

    logits: (L, B, N, K). boxes: (L, B, N, 4) cxcywh. target_labels: (B, G). target_boxes: (B, G, 4) cxcywh, both in
    units of the image. counts: objects of each image. repeat: each object is offered `repeat` times (H-DETR). valid:
    (B, N) bool, queries that may be matched. Every layer and image is matched by itself; the costs reach the host in
    one copy.
    Source: Carion et al., arXiv 2005.12872, Eq. 1; focal class cost of Deformable DETR.
    """
    matrix = matching_cost(logits, boxes, target_labels=target_labels, target_boxes=target_boxes, cost=cost)
    # A diverged model must reach the check of the losses, which names the term; scipy would only refuse the matrix.
    matrix = matrix.nan_to_num(_LARGE_COST, _LARGE_COST, -_LARGE_COST)
    if valid is not None:
        matrix = matrix.masked_fill(~valid[None, :, :, None], _LARGE_COST)
    solved = _solve(matrix.cpu().numpy(), counts, repeat)
    index = torch.from_numpy(solved).to(logits.device)
    return index if valid is None else index.masked_fill(~valid[None], -1)


def matching_cost(
    logits: Tensor, boxes: Tensor, *, target_labels: Tensor, target_boxes: Tensor, cost: MatchingCost
) -> Tensor:
    """Cost (L, B, N, G) float32 of giving each query each ground truth; arguments as in `hungarian_match`."""
    logits, boxes, target_boxes = logits.float(), boxes.float(), target_boxes.float()
    num_layers = len(logits)
    # Only the columns of classes that occur are needed: (L, B, N, G) instead of (L, B, N, K).
    columns = target_labels[None, :, None].expand(num_layers, -1, logits.shape[2], -1)
    chosen = logits.gather(3, columns)
    score = chosen.sigmoid()
    positive = cost.alpha * (1 - score) ** cost.gamma * F.softplus(-chosen)
    negative = (1 - cost.alpha) * score**cost.gamma * F.softplus(chosen)
    targets = target_boxes[None].expand(num_layers, -1, -1, -1)
    distance = torch.cdist(boxes.flatten(0, 1), targets.flatten(0, 1), p=1).unflatten(0, boxes.shape[:2])
    overlap = pairwise_giou(cxcywh_to_xyxy(boxes).flatten(0, 1), cxcywh_to_xyxy(targets).flatten(0, 1))
    giou = overlap.unflatten(0, boxes.shape[:2])
    return cost.class_weight * (positive - negative) + cost.l1_weight * distance - cost.giou_weight * giou


def _solve(costs: np.ndarray, counts: tuple[int, ...], repeat: int) -> np.ndarray:
    """Ground-truth index (L, B, N) of the cheapest assignment of each (N, G) problem."""
    from scipy.optimize import linear_sum_assignment  # half a second to import, needed in training only

    num_layers, batch, queries, _ = costs.shape
    solved = np.full((num_layers, batch, queries), -1, dtype=np.int64)
    for layer in range(num_layers):
        for image, count in enumerate(counts):
            problem = np.tile(costs[layer, image, :, :count], (1, repeat))
            rows, columns = linear_sum_assignment(problem)
            solved[layer, image, rows] = columns % count if count else 0
    return solved
