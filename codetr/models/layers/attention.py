"""Self-attention over groups of queries that do not see each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codetr.structures import QueryGroup


@dataclass(frozen=True)
class Visibility:
    """Who attends to whom, for groups laid one after the other.

    spans: start and end of each group. keys: for each group the indices of the groups it attends to.
    valid: (B, N_g) bool of each group, or None where all its queries are valid. blocks: of each group, runs of equal
    length whose queries see their own run alone.
    """

    spans: tuple[tuple[int, int], ...]
    keys: tuple[tuple[int, ...], ...]
    valid: tuple[Tensor | None, ...]
    blocks: tuple[int, ...]
    device: torch.device

    @classmethod
    def of(cls, groups: Sequence[QueryGroup]) -> Visibility:
        """Raises: ValueError if a group sees one that is not there, or its blocks are not of equal length."""
        names = [group.name for group in groups]
        spans, keys, start = [], [], 0
        for index, group in enumerate(groups):
            unknown = group.sees - set(names)
            if unknown:
                raise ValueError(f"group {group.name!r} sees {sorted(unknown)}, which are not among {names}")
            if len(group) % group.blocks:
                raise ValueError(f"group {group.name!r} has {len(group)} queries, which are not {group.blocks} blocks")
            spans.append((start, start + len(group)))
            keys.append(tuple(i for i, name in enumerate(names) if i == index or name in group.sees))
            start += len(group)
        valid, blocks = zip(*[(group.valid, group.blocks) for group in groups], strict=True)
        return cls(tuple(spans), tuple(keys), valid, blocks, groups[0].content.device)

    def folds(self, index: int) -> bool:
        """Whether the blocks of group `index` are as good as further images: they see nothing but themselves."""
        return self.blocks[index] > 1 and self.keys[index] == (index,) and self.valid[index] is None

    def mask(self, index: int) -> Tensor | None:
        """(B or 1, 1, N, M) bool, True where query attends to key; None if group `index` sees all of its keys.

        A query always sees itself, so that no row of the softmax is empty.
        """
        known = [v for k in self.keys[index] if (v := self.valid[k]) is not None]
        if not known and self.blocks[index] == 1:
            return None
        start, end = self.spans[index]
        parts = []
        for k in self.keys[index]:
            first, last = self.spans[k]
            valid = self.valid[k]
            keys = torch.ones(1, last - first, dtype=torch.bool, device=self.device) if valid is None else valid
            part = keys[:, None].expand(-1, end - start, -1)
            parts.append(_within_blocks(part, self.blocks[k]) if k == index else part)
        batch = max(len(part) for part in parts)
        return torch.cat([part.expand(batch, -1, -1) for part in parts], dim=-1)[:, None]


def _within_blocks(keys: Tensor, blocks: int) -> Tensor:
    """(B, N, N) without the keys of other blocks, and with each query itself."""
    place = torch.arange(keys.shape[-1], device=keys.device)
    block = place // (keys.shape[-1] // blocks)
    return (keys & (block[:, None] == block)) | (place[:, None] == place)


def grouped_attention(
    query: Tensor, key: Tensor, value: Tensor, visibility: Visibility, *, num_heads: int, dropout: float
) -> Tensor:
    """Multi-head attention of each group to what it sees: (B, N, C_v), heads one after the other.

    query, key: (B, N, C). value: (B, N, C_v). dropout: rate on the attention weights.
    """
    query, key, value = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    outputs = []
    for index, (start, end) in enumerate(visibility.spans):
        queries, spans = query[:, :, start:end], [visibility.spans[k] for k in visibility.keys[index]]
        keys, values = (torch.cat([x[:, :, a:b] for a, b in spans], dim=2) for x in (key, value))
        if visibility.folds(index):
            blocks = visibility.blocks[index]
            queries, keys, values = (_folded(x, blocks) for x in (queries, keys, values))
            folded = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout)
            outputs.append(folded.unflatten(0, (-1, blocks)).transpose(1, 2).flatten(2, 3))
            continue
        mask = visibility.mask(index)
        outputs.append(F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout))
    return torch.cat(outputs, dim=2).transpose(1, 2).flatten(2)


def _folded(x: Tensor, blocks: int) -> Tensor:
    """(B, H, blocks * n, D) to (B * blocks, H, n, D)."""
    return x.unflatten(2, (blocks, -1)).transpose(1, 2).flatten(0, 1)


class GroupedSelfAttention(nn.Module):
    """Multi-head self-attention run group by group, projections once over all queries; with residual and norm.

    Queries and keys are content + pos, values are content.
    """

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

    def forward(self, content: Tensor, pos: Tensor, visibility: Visibility) -> Tensor:
        """content, pos: (B, N, C), groups one after the other."""
        dim = content.shape[-1]
        weight, bias = self.in_proj.weight, self.in_proj.bias
        query, key = F.linear(content + pos, weight[: 2 * dim], bias[: 2 * dim]).chunk(2, dim=-1)
        value = F.linear(content, weight[2 * dim :], bias[2 * dim :])
        rate = self.attention_dropout if self.training else 0.0
        merged = grouped_attention(query, key, value, visibility, num_heads=self.num_heads, dropout=rate)
        return self.norm(content + self.dropout(self.out_proj(merged)))
