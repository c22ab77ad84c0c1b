"""The decoder of Anchor DETR: queries at points that no layer moves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codetr.models.layers.attention import GroupedSelfAttention, Visibility
from codetr.models.layers.row_column import Grid, RowColumnAttention
from codetr.models.parts.anchor_encoder import init_as_published
from codetr.models.parts.anchor_position import AnchorPosition
from codetr.models.parts.dense_encoder import DenseSize
from codetr.models.parts.detr_decoder import DetrDecoderLayer
from codetr.models.parts.prediction_heads import PredictionHeads, apply_deltas
from codetr.structures import DecoderOutput, Memory, QueryGroup


class AnchorDecoderLayer(nn.Module):
    """Self-attention within groups, row-column cross-attention, feed-forward, each post-norm."""

    def __init__(self, size: DenseSize) -> None:
        super().__init__()
        self.self_attention = GroupedSelfAttention(size.dim, size.num_heads, dropout=size.dropout)
        self.cross_attention = RowColumnAttention(size.dim, size.num_heads, dropout=size.dropout)
        self.ffn = size.feed_forward()

    def forward(
        self, content: Tensor, pos: Tensor, axes: tuple[Tensor, Tensor], visibility: Visibility, grid: Grid
    ) -> Tensor:
        """content, pos: (B, N, C). axes: embeddings of the queries' x and y, (B, N, C) each."""
        content = self.self_attention(content, pos, visibility)
        return self.ffn(self.cross_attention(content, *axes, grid))


class AnchorDecoder(nn.Module):
    """N layers around points (B, N, 2); predictions from each layer's output, which has no norm of its own.

    decoupled: row-column attention in place of dense. eps: clamp of the inverse sigmoid. A group without a `pos` gets
    the embedding of its points.
    """

    def __init__(self, size: DenseSize, *, num_layers: int, decoupled: bool, eps: float = 1e-5) -> None:
        super().__init__()
        self.decoupled, self.eps = decoupled, eps
        kind = AnchorDecoderLayer if decoupled else DetrDecoderLayer
        self.layers = nn.ModuleList(kind(size) for _ in range(num_layers))
        init_as_published(self)

    def forward(
        self, memory: Memory, groups: Sequence[QueryGroup], heads: PredictionHeads, position: AnchorPosition
    ) -> DecoderOutput:
        visibility = Visibility.of(groups)
        content = torch.cat([group.content for group in groups], dim=1)
        reference = torch.cat([group.reference for group in groups], dim=1)
        given = [position.of_places(g.reference) if g.pos is None else g.pos for g in groups]
        pos = torch.cat(given, dim=1)
        seen = self._seen(memory, reference, pos, visibility, position)
        logits, boxes = [], []
        for index, layer in enumerate(self.layers):
            content = layer(content, *seen)
            scores, deltas = heads(content, index)
            logits.append(scores)
            boxes.append(apply_deltas(deltas, reference, eps=self.eps))
        return DecoderOutput(torch.stack(logits), torch.stack(boxes))

    def _seen(
        self, memory: Memory, reference: Tensor, pos: Tensor, visibility: Visibility, position: AnchorPosition
    ) -> tuple[object, ...]:
        """What every layer gets besides the contents."""
        if not self.decoupled:
            return pos, visibility, memory
        (shape,) = memory.shapes
        grid = position.grid(memory.tokens.unflatten(1, shape), memory.padding.unflatten(1, shape))
        x, y = reference.unbind(-1)
        return pos, (position.of_coordinates(x), position.of_coordinates(y)), visibility, grid
