"""Anchor DETR's layers in plain float64, one image at a time, written from the paper and its published code's facts."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]
HEADS = 2


def double(state: State) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in state.items()}


def sine(coordinate: float, features: int) -> list[float]:
    angles = [2 * math.pi * coordinate / 10000 ** (2 * (i // 2) / features) for i in range(features)]
    return [math.cos(angle) if i % 2 else math.sin(angle) for i, angle in enumerate(angles)]


def embed(state: State, name: str, rows: list[list[float]]) -> Tensor:
    """A shared MLP of two layers over sine embeddings."""
    hidden = torch.tensor(rows, dtype=torch.float64)
    hidden = (hidden @ state[f"{name}.layers.0.weight"].T + state[f"{name}.layers.0.bias"]).clamp(min=0)
    return hidden @ state[f"{name}.layers.1.weight"].T + state[f"{name}.layers.1.bias"]


def on_axis(state: State, coordinates: list[float], dim: int) -> Tensor:
    return embed(state, "axis", [sine(c, dim) for c in coordinates])


def in_plane(state: State, places: list[tuple[float, float]], dim: int) -> Tensor:
    """places: x, y. The embedding begins with y."""
    return embed(state, "plane", [sine(y, dim // 2) + sine(x, dim // 2) for x, y in places])


def centres(real: int, cells: int) -> list[float]:
    """Of cells along an axis of which so many are real; those of the padding lie at the last real one."""
    return [(min(i + 1, real) - 0.5) / real for i in range(cells)]


def norm(state: State, name: str, x: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(state: State, name: str, x: Tensor, part: slice = slice(None)) -> Tensor:
    return x @ state[f"{name}.weight"][part].T + state[f"{name}.bias"][part]


def ffn(state: State, name: str, x: Tensor) -> Tensor:
    hidden = linear(state, f"{name}.linear1", x).clamp(min=0)
    return norm(state, f"{name}.norm", x + linear(state, f"{name}.linear2", hidden))


def heads_of(x: Tensor) -> list[Tensor]:
    return list(x.chunk(HEADS, dim=-1))


def weights(query: Tensor, key: Tensor, real: Tensor) -> Tensor:
    """(N, L) of one head. real: (L,) bool."""
    logits = query @ key.T / math.sqrt(query.shape[-1])
    powers = logits.exp() * real
    return powers / powers.sum(-1, keepdim=True)


def dense(
    state: State, name: str, content: Tensor, pos: Tensor, cells: Tensor, cell_pos: Tensor, real: Tensor
) -> Tensor:
    dim = content.shape[-1]
    q, k, v = (
        heads_of(linear(state, f"{name}.in_proj", x, slice(i * dim, (i + 1) * dim)))
        for i, x in enumerate((content + pos, cells + cell_pos, cells))
    )
    merged = torch.cat([weights(q[h], k[h], real) @ v[h] for h in range(HEADS)], dim=-1)
    return norm(state, f"{name}.norm", content + linear(state, f"{name}.out_proj", merged))


def row_column(
    state: State,
    name: str,
    content: Tensor,
    pos: tuple[Tensor, Tensor],
    cells: Tensor,
    axes: tuple[Tensor, Tensor],
    real: tuple[int, int],
) -> Tensor:
    """content: (N, C), positions in x and y. cells: (H, W, C), axes (W, C) and (H, C). real: rows and columns."""
    dim = content.shape[-1]
    inputs = (content + pos[0], content + pos[1], cells + axes[0][None], cells + axes[1][:, None], cells)
    q_row, q_col, k_row, k_col, v = (
        linear(state, f"{name}.in_proj", x, slice(i * dim, (i + 1) * dim)) for i, x in enumerate(inputs)
    )
    rows, columns = (torch.arange(n) < count for n, count in zip(cells.shape[:2], real, strict=True))
    merged = []
    for q_r, q_c, k_r, k_c, value in zip(*(heads_of(x) for x in (q_row, q_col, k_row, k_col, v)), strict=True):
        a_row, a_col = weights(q_r, k_r.mean(0), columns), weights(q_c, k_c.mean(1), rows)
        merged.append((a_col[:, :, None, None] * a_row[:, None, :, None] * value[None]).sum((1, 2)))
    return norm(state, f"{name}.norm", content + linear(state, f"{name}.out_proj", torch.cat(merged, dim=-1)))
