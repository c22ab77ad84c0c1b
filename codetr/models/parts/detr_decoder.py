"""The decoder of DETR: queries without a place, boxes read off the content."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from codetr.models.layers.attention import GroupedSelfAttention, Visibility
from codetr.models.layers.dense import DenseAttention
from codetr.models.parts.dense_encoder import DenseSize
from codetr.models.parts.prediction_heads import PredictionHeads, apply_deltas
from codetr.structures import DecoderOutput, Memory, QueryGroup


class DetrDecoderLayer(nn.Module):
    """Self-attention within groups, cross-attention to all tokens, feed-forward, each post-norm."""

    def __init__(self, size: DenseSize) -> None:
        super().__init__()
        self.self_attention = GroupedSelfAttention(size.dim, size.num_heads, dropout=size.dropout)
        self.cross_attention = DenseAttention(size.dim, size.num_heads, dropout=size.dropout)
        self.ffn = size.feed_forward()

    def forward(self, content: Tensor, pos: Tensor, visibility: Visibility, memory: Memory) -> Tensor:
        content = self.self_attention(content, pos, visibility)
        content = self.cross_attention(content, pos, memory.tokens, memory.pos, memory.padding)
        return self.ffn(content)


class DetrDecoder(nn.Module):
    """N layers; predictions are made from each layer's normed output. Every group carries a `pos`."""

    def __init__(self, size: DenseSize, *, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DetrDecoderLayer(size) for _ in range(num_layers))
        self.norm = nn.LayerNorm(size.dim)

    def forward(self, memory: Memory, groups: Sequence[QueryGroup], heads: PredictionHeads) -> DecoderOutput:
        visibility = Visibility.of(groups)
        content = torch.cat([group.content for group in groups], dim=1)
        pos = torch.cat([group.pos for group in groups if group.pos is not None], dim=1)
        reference = torch.cat([group.reference for group in groups], dim=1)
        logits, boxes = [], []
        for index, layer in enumerate(self.layers):
            content = layer(content, pos, visibility, memory)
            scores, deltas = heads(self.norm(content), index)
            logits.append(scores)
            boxes.append(apply_deltas(deltas, reference, eps=1e-5))
        return DecoderOutput(torch.stack(logits), torch.stack(boxes))
