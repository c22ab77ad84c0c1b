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
    valid: (B, N_g) bool of each group, or None where all its queries are valid.
    """

    spans: tuple[tuple[int, int], ...]
    keys: tuple[tuple[int, ...], ...]
    valid: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, groups: Sequence[QueryGroup]) -> Visibility:
        """Raises: ValueError if a group sees one that is not there."""
        names = [group.name for group in groups]
        spans, keys, start = [], [], 0
        for index, group in enumerate(groups):
            unknown = group.sees - set(names)
            if unknown:
                raise ValueError(f"group {group.name!r} sees {sorted(unknown)}, which are not among {names}")
            spans.append((start, start + len(group)))
            keys.append(tuple(i for i, name in enumerate(names) if i == index or name in group.sees))
            start += len(group)
        return cls(tuple(spans), tuple(keys), tuple(group.valid for group in groups))

    def mask(self, index: int) -> Tensor | None:
        """(B, 1, N, M) bool, True where query attends to key; None if every key of group `index` is valid.

        A query always sees itself, so that no row of the softmax is empty.
        """
        if all(self.valid[k] is None for k in self.keys[index]):
            return None
        start, end = self.spans[index]
        known = next(v for k in self.keys[index] if (v := self.valid[k]) is not None)
        parts = []
        for k in self.keys[index]:
            first, last = self.spans[k]
            valid = self.valid[k]
            keys = known.new_ones(len(known), last - first) if valid is None else valid
            part = keys[:, None].expand(-1, end - start, -1)
            parts.append(part | torch.eye(end - start, dtype=torch.bool, device=part.device) if k == index else part)
        return torch.cat(parts, dim=-1)[:, None]


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
        query, key, value = (self._heads(x) for x in (query, key, value))
        outputs = []
        for index, (start, end) in enumerate(visibility.spans):
            spans = [visibility.spans[k] for k in visibility.keys[index]]
            attended = F.scaled_dot_product_attention(
                query[:, :, start:end],
                torch.cat([key[:, :, a:b] for a, b in spans], dim=2),
                torch.cat([value[:, :, a:b] for a, b in spans], dim=2),
                attn_mask=visibility.mask(index),
                dropout_p=self.attention_dropout if self.training else 0.0,
            )
            outputs.append(attended)
        merged = torch.cat(outputs, dim=2).transpose(1, 2).flatten(2)
        return self.norm(content + self.dropout(self.out_proj(merged)))

    def _heads(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, heads, N, C / heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
