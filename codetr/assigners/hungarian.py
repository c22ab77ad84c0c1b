"""One-to-one assignment of queries to objects (Hungarian matching).

Dimension key: L decoder layers, B images, N queries, K classes, G ground truths (padded), P = L * B problems.
"""

from __future__ import annotations

from typing import Literal

import torch
from codetr_kernels.linear_assignment import linear_assignment
from codetr_kernels.matching_cost import matching_cost
from pydantic import Field, model_validator
from torch import Tensor

from codetr.config import Section


class MatchingCost(Section):
    """The matching cost."""

    kind: Literal["focal", "softmax"] = Field(
        "focal", description="class cost: focal (sigmoid), or minus the probability (softmax, no-object class last)"
    )
    class_weight: float = Field(2.0, ge=0, description="weight of the class cost")
    l1_weight: float = Field(5.0, ge=0, description="weight of the L1 distance of the boxes")
    giou_weight: float = Field(2.0, ge=0, description="weight of their negative GIoU")
    alpha: float = Field(0.25, ge=0, le=1, description="focal class cost: weight of the positive part")
    gamma: float = Field(2.0, ge=0, description="focal class cost: exponent")

    @model_validator(mode="after")
    def _settings_take_effect(self) -> MatchingCost:
        defaults = type(self).model_fields
        idle = [name for name in ("alpha", "gamma") if getattr(self, name) != defaults[name].default]
        if self.kind == "softmax" and idle:
            verb = "belong" if len(idle) > 1 else "belongs"
            raise ValueError(f"{' and '.join(idle)} {verb} to kind: focal; with kind: softmax leave it out")
        return self


@torch.no_grad()
def hungarian_match(
    logits: Tensor,
    boxes: Tensor,
    *,
    target_labels: Tensor,
    target_boxes: Tensor,
    num_objects: Tensor,
    cost: MatchingCost,
    repeat: int = 1,
    valid: Tensor | None = None,
) -> Tensor:
    """The ground truth of each query, (L, B, N) int64, -1 where none.

    logits: (L, B, N, K). boxes: (L, B, N, 4) cxcywh. target_labels: (B, G). target_boxes: (B, G, 4) cxcywh, both in
    units of the image. num_objects: (B,) int, objects of each image, on the device. repeat: each object is offered
    `repeat` times (H-DETR). valid: (B, N) bool, queries that may be matched. Every layer and image is matched by
    itself. On a GPU that runs the kernels nothing waits for the host. Costs that are not finite match last: a model
    that diverged reaches the check of the losses, which names the term.
    Source: Carion et al., arXiv 2005.12872, Eq. 1; focal class cost of Deformable DETR.
    """
    num_layers, num_images, num_queries, _ = logits.shape
    cost_PGN = matching_cost(
        logits,
        boxes,
        target_labels,
        target_boxes,
        num_objects,
        valid,
        class_cost=cost.kind,
        class_weight=cost.class_weight,
        l1_weight=cost.l1_weight,
        giou_weight=cost.giou_weight,
        alpha=cost.alpha,
        gamma=cost.gamma,
    )
    query = linear_assignment(cost_PGN, num_objects.repeat(num_layers), repeat=repeat)
    index = _object_of_query(query, num_objects=target_boxes.shape[1], num_queries=num_queries)
    index = index.view(num_layers, num_images, num_queries)
    return index if valid is None else index.masked_fill(~valid, -1)


def _object_of_query(query: Tensor, *, num_objects: int, num_queries: int) -> Tensor:
    """(P, N) the object of each query, -1 if none, of query (P, copies * G), the query of each object, -1 if none."""
    number = torch.arange(query.shape[1], device=query.device) % max(1, num_objects)
    # What has no query goes to a column of its own, which is cut off.
    slot = torch.where(query < 0, num_queries, query)
    index = query.new_full((len(query), num_queries + 1), -1)
    return index.scatter_(1, slot, number.expand_as(slot))[:, :num_queries]
