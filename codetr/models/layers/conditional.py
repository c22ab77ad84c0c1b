"""Attention that keeps content and position apart (Conditional DETR, Meng et al., arXiv 2108.06152, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codetr.models.layers.attention import Visibility, grouped_attention
from codetr.models.layers.dense import dense_attention
from codetr.structures import Memory


class ConditionalSelfAttention(nn.Module):
    """Self-attention of groups with a projection each for contents and positions; with residual and norm.

    Queries and keys are the sums of their two projections, values come from contents alone.
    """

    def __init__(self, dim: int, num_heads: int, *, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_dropout = dropout
        self.query_content = nn.Linear(dim, dim)
        self.query_pos = nn.Linear(dim, dim)
        self.key_content = nn.Linear(dim, dim)
        self.key_pos = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)
        _init_projections(self)

    def forward(self, content: Tensor, pos: Tensor, visibility: Visibility) -> Tensor:
        """content, pos: (B, N, C), groups one after the other."""
        query = self.query_content(content) + self.query_pos(pos)
        key = self.key_content(content) + self.key_pos(pos)
        rate = self.attention_dropout if self.training else 0.0
        merged = grouped_attention(query, key, self.value(content), visibility, num_heads=self.num_heads, dropout=rate)
        return self.norm(content + self.dropout(self.out_proj(merged)))


class ConditionalCrossAttention(nn.Module):
    """Cross-attention whose logits are a content part plus a spatial part; with residual and norm.

    In each head, queries [content; sine of the reference] meet keys [content; position of the token], so queries and
    keys are twice as wide as values. first: the first decoder layer, where contents know nothing yet: positions are
    added to the content part on both sides.
    """

    def __init__(self, dim: int, num_heads: int, *, dropout: float, first: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_dropout = dropout
        self.query_content = nn.Linear(dim, dim)
        self.query_pos = nn.Linear(dim, dim) if first else None
        self.query_sine = nn.Linear(dim, dim)
        self.key_content = nn.Linear(dim, dim)
        self.key_pos = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)
        _init_projections(self)

    def forward(self, content: Tensor, pos: Tensor, sine: Tensor, memory: Memory) -> Tensor:
        """content, pos: (B, N, C). sine: (B, N, C), the spatial query."""
        query, key = self.query_content(content), self.key_content(memory.tokens)
        key_pos = self.key_pos(memory.pos)
        if self.query_pos is not None:
            query, key = query + self.query_pos(pos), key + key_pos
        query, key = self._per_head(query, self.query_sine(sine)), self._per_head(key, key_pos)
        rate = self.attention_dropout if self.training else 0.0
        attended = dense_attention(
            query, key, self.value(memory.tokens), memory.padding, num_heads=self.num_heads, dropout=rate
        )
        return self.norm(content + self.dropout(self.out_proj(attended)))

    def _per_head(self, content: Tensor, spatial: Tensor) -> Tensor:
        """(B, N, 2C): in each head its share of `content`, then of `spatial`."""
        halves = [x.unflatten(-1, (self.num_heads, -1)) for x in (content, spatial)]
        return torch.cat(halves, dim=-1).flatten(-2)


def _init_projections(attention: nn.Module) -> None:
    """Xavier-uniform weights. Biases keep PyTorch's initial values, but that of the output is 0, as published."""
    for name, module in attention.named_children():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if name == "out_proj":
                nn.init.zeros_(module.bias)
