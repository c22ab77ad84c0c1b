"""Position embeddings that follow the references of queries from layer to layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codetr.models.layers.mlp import MLP
from codetr.models.parts.conditional_decoder import reference_sine


class ReferencePosition(nn.Module):
    """A two-layer perceptron of the sine of each query's box on the finest level, computed anew in every layer.

    scaled: from the second layer on the result is scaled, channel by channel, by another perceptron of the query's
    content (the deformable form of DAB-DETR); DINO does without.
    Source: Liu et al., DAB-DETR, arXiv 2201.12329, section 3.3; Zhang et al., DINO, arXiv 2203.03605.
    """

    def __init__(self, dim: int, *, scaled: bool) -> None:
        super().__init__()
        self.dim = dim
        self.ref_point_head = MLP(2 * dim, dim, dim, num_layers=2)
        self.ref_point_head.init_xavier()
        self.query_scale = MLP(dim, dim, dim, num_layers=2) if scaled else None
        if self.query_scale is not None:
            self.query_scale.init_xavier()

    def forward(self, content: Tensor, references: Sequence[Tensor], *, layer: int) -> Tensor:
        """(B, N, C) of contents (B, N, C) and parts of references that cover N, each (B, N_i, L, 4)."""
        finest = torch.cat([reference[:, :, 0] for reference in references], dim=1)
        pos: Tensor = self.ref_point_head(reference_sine(finest, self.dim))
        return pos if self.query_scale is None or layer == 0 else pos * self.query_scale(content)
