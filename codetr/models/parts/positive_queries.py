"""Customised positive queries (paper, Eq. 4): a head's positives become decoder queries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codetr.ops.boxes import normalise
from codetr.ops.position import sine_embedding
from codetr.structures import Assigned, Positives


class PositiveQueries(nn.Module):
    """Linear(PE(box)) + Linear(feature), each with a layer norm. One instance a head; training only.

    query_width: channels that the base adopts, in units of `dim`; the feature term enters the first `dim` of them (the
    content). use_features: off in the published Co-DINO recipes.
    """

    def __init__(self, dim: int, *, query_width: int, use_features: bool, eps: float = 1e-5) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.position = nn.Linear(2 * dim, query_width * dim)
        self.position_norm = nn.LayerNorm(query_width * dim)
        self.feature = nn.Linear(dim, dim) if use_features else None
        self.feature_norm = nn.LayerNorm(dim) if use_features else None
        for linear in (self.position, self.feature):
            if linear is not None:
                nn.init.xavier_uniform_(linear.weight)

    def forward(self, positives: Positives, sizes: Tensor) -> tuple[Tensor, Tensor, Assigned]:
        """Embedding (B, M, query_width * C), boxes (B, M, 4) cxcywh in units of the unpadded image, and the
        supervision.

        sizes: (B, 2) height and width. Boxes are detached and not clamped (an anchor may reach over the image's edge);
        invalid slots hold a box in the middle, so that nothing they touch is undefined.
        """
        valid = positives.valid[..., None]
        boxes = torch.where(valid, normalise(positives.boxes.detach(), sizes), 0.5)
        targets = torch.where(valid, normalise(positives.targets, sizes), 0.5)
        supervision = Assigned(positives.labels, targets, positives.valid.to(boxes.dtype))
        return self._embed(boxes, positives.features), boxes, supervision

    def _embed(self, boxes: Tensor, features: Tensor) -> Tensor:
        sine = sine_embedding(boxes.clamp(self.eps, 1 - self.eps), self.dim // 2)
        embedding = self.position_norm(self.position(sine))
        if self.feature is None or self.feature_norm is None:
            return embedding
        content = embedding[..., : self.dim] + self.feature_norm(self.feature(features))
        return torch.cat([content, embedding[..., self.dim :]], dim=-1)
