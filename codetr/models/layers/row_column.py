"""Row-column decoupled attention (Anchor DETR, Wang et al., arXiv 2109.07107, section 3.4).

A map is attended to along its rows and along its columns, two softmaxes of W and of H in place of one of HW. It equals
attention whose weights are the outer product of the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Grid:
    """A map that queries look at.

    features: (B, H, W, C). x: (B, W, C) position embeddings of the columns; y: (B, H, C) of the rows.
    padded_x: (B, W) bool and padded_y: (B, H) bool, True for the columns and rows that nobody looks at.
    """

    features: Tensor
    x: Tensor
    y: Tensor
    padded_x: Tensor
    padded_y: Tensor


class RowColumnAttention(nn.Module):
    """Row-column decoupled attention with residual and norm. Positions enter queries and keys, not values.

    The key of a column is the mean of its cells' keys, that of a row likewise; padded cells count in the means, as in
    the published code. in_proj: queries along the row, queries along the column, keys of either, values.
    """

    def __init__(self, dim: int, num_heads: int, *, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_dropout = dropout
        self.in_proj = nn.Linear(dim, 5 * dim)
        self.out_proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)
        nn.init.xavier_uniform_(self.in_proj.weight)
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, content: Tensor, x: Tensor, y: Tensor, grid: Grid) -> Tensor:
        """content: (B, ..., C), queries of any arrangement. x, y: their positions, of a shape that broadcasts to it."""
        # Projections are linear, so the mean of the projected keys is the projection of the mean.
        inputs = (
            content + x,
            content + y,
            grid.features.mean(1) + grid.x,
            grid.features.mean(2) + grid.y,
            grid.features,
        )
        weights, biases = self.in_proj.weight.chunk(5), self.in_proj.bias.chunk(5)
        projected = [F.linear(i, w, b) for i, w, b in zip(inputs, weights, biases, strict=True)]
        query_x, query_y, key_x, key_y, value = projected
        rate = self.attention_dropout if self.training else 0.0
        along_x = _weights(query_x.flatten(1, -2), key_x, grid.padded_x, num_heads=self.num_heads, dropout=rate)
        along_y = _weights(query_y.flatten(1, -2), key_y, grid.padded_y, num_heads=self.num_heads, dropout=rate)
        attended = row_column_sum(along_x, along_y, value.unflatten(-1, (self.num_heads, -1)))
        return self.norm(content + self.dropout(self.out_proj(attended.flatten(-2).view_as(content))))


def row_column_sum(along_x: Tensor, along_y: Tensor, value: Tensor) -> Tensor:
    """Sum over all cells of along_x * along_y * value: (B, N, heads, D).

    along_x: (B, heads, N, W). along_y: (B, heads, N, H). value: (B, H, W, heads, D).
    The longer axis is summed first, so that what lies between is N times the shorter one.
    """
    height, width = value.shape[1:3]
    along_x, along_y = along_x.to(value.dtype), along_y.to(value.dtype)
    if height < width:
        rows = torch.einsum("bmnw,bhwmd->bmnhd", along_x, value)
        return torch.einsum("bmnh,bmnhd->bnmd", along_y, rows)
    columns = torch.einsum("bmnh,bhwmd->bmnwd", along_y, value)
    return torch.einsum("bmnw,bmnwd->bnmd", along_x, columns)


def _weights(query: Tensor, key: Tensor, padding: Tensor, *, num_heads: int, dropout: float) -> Tensor:
    """Softmax along one axis, at least float32: (B, heads, N, L). query: (B, N, C). key: (B, L, C). padding: (B, L).

    All cells count alike along an axis that is padded throughout, so that nothing is undefined.
    """
    query, key = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key))
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits.masked_fill(padding[:, None, None], torch.finfo(logits.dtype).min)
    return F.dropout(logits.softmax(-1), dropout)
