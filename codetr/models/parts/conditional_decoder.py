"""The decoder of Conditional DETR, and what it shares with that of DAB-DETR: the layer and the spatial query."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codetr.models.layers.attention import Visibility
from codetr.models.layers.conditional import ConditionalCrossAttention, ConditionalSelfAttention
from codetr.models.layers.mlp import MLP
from codetr.models.parts.dense_encoder import DenseSize
from codetr.models.parts.prediction_heads import PredictionHeads, apply_deltas
from codetr.ops.position import sine_embedding
from codetr.structures import DecoderOutput, Memory, QueryGroup

# A side is never divided by less: a hundredth of a pixel of any image, where the published code divides by all.
_LEAST_SIDE = 1e-6


def reference_sine(reference: Tensor, dim: int) -> Tensor:
    """Sine embedding of references (B, N, R), float32 (B, N, R * dim / 2), in the order y, x and, if R = 4, w, h."""
    centre, sides = reference[..., :2].flip(-1), reference[..., 2:]
    return sine_embedding(torch.cat([centre, sides], dim=-1), dim // 2)


class SpatialQuery(nn.Module):
    """The sine of a query's centre, weighted by its content: what it looks for in the positions of the tokens.

    scaled: False for a decoder of one layer, which has no use for the weights. modulated: the halves for y and x are
    further scaled by a height and a width read off the content, over those of the reference (DAB-DETR, Liu et al.,
    arXiv 2201.12329, Eq. 6).
    """

    def __init__(self, dim: int, *, scaled: bool, modulated: bool) -> None:
        super().__init__()
        self.query_scale = MLP(dim, dim, dim, num_layers=2) if scaled else None
        self.ref_anchor_head = MLP(dim, dim, 2, num_layers=2) if modulated else None
        for mlp in (self.query_scale, self.ref_anchor_head):
            if mlp is not None:
                mlp.init_xavier()

    def forward(self, content: Tensor, sine: Tensor, reference: Tensor, *, first: bool) -> Tensor:
        """(B, N, C) of contents (B, N, C), sines of centres (B, N, C), y first, and references (B, N, R).

        first: in the first layer contents know nothing yet, and the sine counts as it is.
        """
        query = sine if first or self.query_scale is None else sine * self.query_scale(content)
        if self.ref_anchor_head is None:
            return query
        side = self.ref_anchor_head(content).float().sigmoid() / reference[..., 2:].clamp(min=_LEAST_SIDE)
        width, height = side.split(1, dim=-1)
        vertical, horizontal = query.chunk(2, dim=-1)
        return torch.cat([vertical * height, horizontal * width], dim=-1)


class ConditionalDecoderLayer(nn.Module):
    """Self-attention within groups, conditional cross-attention, feed-forward, each post-norm."""

    def __init__(self, size: DenseSize, *, first: bool) -> None:
        super().__init__()
        self.self_attention = ConditionalSelfAttention(size.dim, size.num_heads, dropout=size.dropout)
        self.cross_attention = ConditionalCrossAttention(size.dim, size.num_heads, dropout=size.dropout, first=first)
        self.ffn = size.feed_forward()

    def forward(self, content: Tensor, pos: Tensor, spatial: Tensor, visibility: Visibility, memory: Memory) -> Tensor:
        """content, pos, spatial: (B, N, C), the last of them a `SpatialQuery`'s."""
        content = self.self_attention(content, pos, visibility)
        return self.ffn(self.cross_attention(content, pos, spatial, memory))


class ConditionalDecoder(nn.Module):
    """N layers around references that stay as given, as positions do; predictions from each layer's normed output.

    Every group carries a `pos` and 2-d references.
    """

    def __init__(self, size: DenseSize, *, num_layers: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.dim, self.eps = size.dim, eps
        self.layers = nn.ModuleList(ConditionalDecoderLayer(size, first=index == 0) for index in range(num_layers))
        self.spatial_query = SpatialQuery(size.dim, scaled=num_layers > 1, modulated=False)
        self.norm = nn.LayerNorm(size.dim)

    def forward(self, memory: Memory, groups: Sequence[QueryGroup], heads: PredictionHeads) -> DecoderOutput:
        visibility = Visibility.of(groups)
        content = torch.cat([group.content for group in groups], dim=1)
        pos = torch.cat([group.pos for group in groups if group.pos is not None], dim=1)
        reference = torch.cat([group.reference for group in groups], dim=1)
        sine = reference_sine(reference, self.dim)
        logits, boxes = [], []
        for index, layer in enumerate(self.layers):
            spatial = self.spatial_query(content, sine, reference, first=index == 0)
            content = layer(content, pos, spatial, visibility, memory)
            scores, deltas = heads(self.norm(content), index)
            logits.append(scores)
            boxes.append(apply_deltas(deltas, reference, eps=self.eps))
        return DecoderOutput(torch.stack(logits), torch.stack(boxes))
