"""Attention of every query to every token: DETR's encoder, and its decoder's cross-attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class DenseAttention(nn.Module):
    """Multi-head attention with residual and norm. Positions enter queries and keys, not values."""

    def __init__(self, dim: int, num_heads: int, *, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_dropout = dropout
        self.in_proj = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)
        for linear in (self.in_proj, self.out_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, content: Tensor, pos: Tensor, tokens: Tensor, token_pos: Tensor, padding: Tensor) -> Tensor:
        """content, pos: (B, N, C). tokens, token_pos: (B, S, C); padding: (B, S) bool, True where nobody looks."""
        weights, biases = self.in_proj.weight.chunk(3), self.in_proj.bias.chunk(3)
        inputs = (content + pos, tokens + token_pos, tokens)
        query, key, value = (F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True))
        rate = self.attention_dropout if self.training else 0.0
        attended = dense_attention(query, key, value, padding, num_heads=self.num_heads, dropout=rate)
        return self.norm(content + self.dropout(self.out_proj(attended)))


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, padding: Tensor, *, num_heads: int, dropout: float
) -> Tensor:
    """(B, N, C_v), heads one after the other. query: (B, N, C). key: (B, S, C). value: (B, S, C_v). padding: (B, S)."""
    query, key, value = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    seen = ~padding[:, None, None]
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, dropout_p=dropout)
    return attended.transpose(1, 2).flatten(2)
