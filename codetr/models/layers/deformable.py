"""Multi-scale deformable attention as a layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from codetr_kernels import deform_attention
from torch import Tensor, nn


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


def sampling_locations(offsets: Tensor, reference: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Where to sample, (B, Q, H, L, P, 2) in units of each level.

    offsets: (B, Q, H, L, P, 2), in cells for points, in shares of half a box side, P of them, for boxes.
    reference: (B, Q, L, 2) points or (B, Q, L, 4) boxes cxcywh.
    """
    centre = reference[:, :, None, :, None, :2]
    if reference.shape[-1] == 2:
        # Filled on the device: a tensor made from a list would be copied from the host, which waits.
        sides = [torch.full((), float(side), device=offsets.device) for h, w in shapes for side in (w, h)]
        return centre + offsets / torch.stack(sides).view(len(shapes), 1, 2)
    return centre + offsets / offsets.shape[-2] * reference[:, :, None, :, None, 2:] * 0.5


class DeformableAttention(nn.Module):
    """Each query samples P points on each of L levels around its reference; with residual and norm.

    Locations and the softmax stay in float32 under autocast.
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
        offsets = self.sampling_offsets(query).float().unflatten(-1, (*self.layout, 2))
        parts = offsets.split([reference.shape[1] for reference in references], dim=1)
        pairs = zip(parts, references, strict=True)
        locations = torch.cat([sampling_locations(part, reference, shapes) for part, reference in pairs], dim=1)
        num_heads, num_levels, num_points = self.layout
        logits = self.attention_weights(query).float().unflatten(-1, (num_heads, -1))
        weights = logits.softmax(-1).unflatten(-1, (num_levels, num_points))
        value = self.value_proj(tokens).masked_fill(padding[..., None], 0.0).unflatten(-1, (num_heads, -1))
        sampled = deform_attention(value, shapes, locations, weights)
        return self.norm(content + self.dropout(self.output_proj(sampled)))
