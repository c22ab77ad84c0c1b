"""From the decoder's last layer to detections: the best (query, class) pairs, without NMS or with a soft one."""

from __future__ import annotations

from typing import Literal

import torch
from codetr_kernels.nms import soft_nms
from pydantic import Field
from torch import Tensor

from codetr.config import Section
from codetr.ops.boxes import cxcywh_to_xyxy, widened
from codetr.ops.gather import take
from codetr.structures import DecoderOutput, Detections


class SoftNMSConfig(Section):
    """Soft-NMS within each class (published for Co-DINO, linear, +0.2 AP).

    The authors' code takes the 900 best candidates and keeps the 300 best of what soft-NMS leaves; mmdetection's takes
    300 (`candidates`). Source: Bodla et al., arXiv 1704.04503.
    """

    method: Literal["linear", "gaussian"] = Field(
        "linear", description="a lower score falls by 1 - IoU, or by exp(-IoU^2 / sigma)"
    )
    iou_threshold: float = Field(0.8, ge=0, le=1, description="linear: overlap above which a lower score falls")
    sigma: float = Field(0.5, gt=0, description="gaussian: the smaller, the more a score falls")
    min_score: float = Field(0.001, ge=0, lt=1, description="a detection whose score falls to it is dropped")
    candidates: int = Field(900, ge=1, description="best pairs of query and class of an image that enter")


class PostprocessConfig(Section):
    """From predictions of the decoder to detections."""

    soft_nms: SoftNMSConfig | None = Field(None, description="soft-NMS; null: none, as the paper has it")


def top_detections(
    output: DecoderOutput,
    sizes: Tensor,
    *,
    max_detections: int,
    classification: Literal["sigmoid", "softmax"] = "sigmoid",
    config: PostprocessConfig | None = None,
) -> list[Detections]:
    """The `max_detections` highest scores of each image; boxes clipped to the image.

    Sigmoid: over all queries and classes. Softmax: each query counts once, with its best class, no object left out.
    sizes: (B, 2) height and width; boxes come out in pixels of the image in the batch.
    """
    soft = None if config is None else config.soft_nms
    limit = max_detections if soft is None else soft.candidates
    query, labels, scores = _ranked(output.logits[-1].float(), limit, classification)
    chosen = widened(take(output.boxes[-1], query))  # in half precision corners would be whole pixels off
    extent = sizes.flip(-1).repeat(1, 2)[:, None].to(chosen.dtype)
    boxes = cxcywh_to_xyxy(chosen) * extent
    boxes = boxes.clamp(min=0).minimum(extent)
    if soft is not None:
        return _softened(boxes, scores, labels, soft, limit=max_detections)
    return [Detections(b, s, c) for b, s, c in zip(boxes, scores, labels, strict=True)]


def _softened(boxes: Tensor, scores: Tensor, labels: Tensor, soft: SoftNMSConfig, *, limit: int) -> list[Detections]:
    """What soft-NMS leaves of boxes (B, N, 4) xyxy, scores and labels (B, N), with the scores that it leaves them."""
    index, scores, kept = soft_nms(
        boxes,
        scores,
        labels,
        torch.ones_like(labels, dtype=torch.bool),
        method=soft.method,
        iou_threshold=soft.iou_threshold,
        sigma=soft.sigma,
        min_score=soft.min_score,
        limit=limit,
    )
    # The kept ones come first. Their numbers are all that is read from the device, once for the batch.
    counts = kept.sum(1).tolist()
    rows = zip(take(boxes, index), scores, labels.gather(1, index), counts, strict=True)
    return [Detections(box[:count], score[:count], label[:count]) for box, score, label, count in rows]


def _ranked(logits: Tensor, limit: int, classification: str) -> tuple[Tensor, Tensor, Tensor]:
    """Query, label and score, each (B, D), of logits (B, N, K)."""
    if classification == "softmax":
        scores, labels = logits.softmax(-1)[..., :-1].max(-1)
        best, query = scores.topk(min(limit, scores.shape[1]), dim=1)
        return query, labels.gather(1, query), best
    best, index = logits.sigmoid().flatten(1).topk(min(limit, logits[0].numel()), dim=1)
    return torch.div(index, logits.shape[-1], rounding_mode="floor"), index % logits.shape[-1], best
