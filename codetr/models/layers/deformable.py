"""Multi-scale deformable attention as a layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from codetr_kernels import deform_attention_fused
from codetr_kernels.deform_attention import level_sides
from torch import Tensor, nn

from codetr.errors import UserError


@dataclass(frozen=True)
class LayerSize:
    """Widths of an encoder or decoder layer of the deformable family.

    dim: channels of a token. num_heads, num_levels, num_points: of deformable attention, points per head and level.
    ffn_dim: hidden width of the feed-forward block. dropout: rate, everywhere in the layer.
    """

    dim: int
    num_heads: int
    num_levels: int
    num_points: int
    ffn_dim: int
    dropout: float

    @classmethod
    def of_spec(
        cls, *, dim: int, num_heads: int, num_levels: int, num_points: int, ffn_dim: int, dropout: float
    ) -> LayerSize:
        """Raises: UserError for a width that attention heads or position embeddings cannot share out."""
        if dim % num_heads:
            raise UserError(f"neck.dim is {dim}; it must be a multiple of base.num_heads ({num_heads})")
        if dim % 4:
            raise UserError(f"neck.dim is {dim}; it must be a multiple of 4 (sine and cosine of two coordinates)")
        return cls(dim, num_heads, num_levels, num_points, ffn_dim, dropout)


def joined_references(references: Sequence[Tensor], shapes: Sequence[tuple[int, int]], *, num_points: int) -> Tensor:
    """References of all queries in one tensor, (B, Q, L, 2) if all are points, else (B, Q, L, 4).

    A point becomes the box in which an offset of one is one cell: 2 P cells wide and high.
    """
    if len({reference.shape[-1] for reference in references}) == 1:
        return torch.cat(list(references), dim=1)
    box = 2 * num_points / level_sides(shapes, references[0])
    widened = [r if r.shape[-1] == 4 else torch.cat([r, box.expand_as(r)], dim=-1) for r in references]
    return torch.cat(widened, dim=1)


class DeformableAttention(nn.Module):
    """Each query samples P points on each of L levels around its reference; with residual and norm.

    Locations and the softmax are computed in float32 under autocast, from offsets and logits of 16 bits.
    """

    def __init__(self, size: LayerSize) -> None:
        super().__init__()
        dim = size.dim
        self.layout = (size.num_heads, size.num_levels, size.num_points)
        samples = math.prod(self.layout)
        self.sampling_offsets = nn.Linear(dim, 2 * samples)
        self.attention_weights = nn.Linear(dim, samples)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(size.dropout)
        self.norm = nn.LayerNorm(dim)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Offsets point in H compass directions, 1 to P cells away, whatever the query; equal weights."""
        num_heads, num_levels, num_points = self.layout
        angle = torch.arange(num_heads, dtype=torch.float32) * (2 * math.pi / num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, num_points + 1, dtype=torch.float32)
        bias = direction[:, None, None] * steps[:, None]
        nn.init.zeros_(self.sampling_offsets.weight)
        self.sampling_offsets.bias.copy_(bias.expand(num_heads, num_levels, num_points, 2).reshape(-1))
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        content: Tensor,
        pos: Tensor,
        references: Sequence[Tensor],
        *,
        tokens: Tensor,
        padding: Tensor,
        shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """content, pos: (B, Q, C). tokens: (B, S, C); padding: (B, S) bool, padded tokens count as zeros.

        references: parts that cover Q one after the other, each (B, Q_i, L, 2) or (B, Q_i, L, 4).
        """
        query = content + pos
        num_heads, num_levels, num_points = self.layout
        sampled = deform_attention_fused(
            self.value_proj(tokens).unflatten(-1, (num_heads, -1)),
            shapes,
            joined_references(references, shapes, num_points=num_points),
            self.sampling_offsets(query).unflatten(-1, (num_heads, num_levels, num_points, 2)),
            self.attention_weights(query).unflatten(-1, (num_heads, -1)),
            padding,
        )
        return self.norm(content + self.dropout(self.output_proj(sampled)))
