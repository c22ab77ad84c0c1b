"""Grids of cells with one prior each, and the cells nearest to a point without looking at all of them.

Dimension key: B images, L levels, N points, C candidates of a level.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class CellGrid(NamedTuple):
    """Priors that are one a cell: level after level, each row by row.

    shapes: (height, width) of each level. strides: of each level, in pixels. offset: the centre of the cell in row r
    and column c is ((c + offset) * stride, (r + offset) * stride). sizes: (B, 2) height and width of the images; the
    cells that begin inside, r * stride < height and c * stride < width, are valid. None: all are.
    """

    shapes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    offset: float = 0.0
    sizes: Tensor | None = None

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Cells of each level."""
        return tuple(height * width for height, width in self.shapes)


def candidates(topk: int) -> int:
    """C of `nearest_ranks`."""
    return sum(topk // (row + 1) for row in range(topk))


def nearest_ranks(topk: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ranks (C,) of the rows and of the columns among which the `topk` nearest cells of a grid are.

    Order the rows of a grid by their distance from a point, and the columns likewise, equal ones by rising index. For a
    cell whose row is the i-th and whose column is the j-th (from 0), (i + 1) * (j + 1) - 1 other cells are no farther.
    So only cells with (i + 1) * (j + 1) <= topk can be among the topk nearest: 23 of them for nine, whatever the size
    of the grid, wherever the point. Equal distances come in the order of the cells either way; of cells that are equal
    only after rounding, others may be left out than in a search through all cells.
    """
    row, column = torch.meshgrid(*[torch.arange(topk, device=device)] * 2, indexing="ij")
    # A stable sort brings the hyperbola's cells to the front without asking the device how many they are.
    order = ((row + 1) * (column + 1) > topk).flatten().byte().argsort(stable=True)[: candidates(topk)]
    return row.flatten()[order], column.flatten()[order]


def ranked_cells(point: Tensor, counts: Tensor, rank: Tensor, *, stride: int, offset: float) -> Tensor:
    """Indices of the rows or columns that are the rank-th nearest to a coordinate, int64.

    point: (B, N) pixels. counts: (B, 1) how many there are. rank: (C,). Returns (B, N, C), inside the counts; where
    rank >= counts it means nothing.
    """
    last = (counts - 1).clamp(min=0)
    nearest = ((point / stride - offset).floor().nan_to_num(0.0).clamp(min=0).minimum(last)).long()
    here, beyond = (point - (nearest + offset) * stride).abs(), (point - (nearest + 1 + offset) * stride).abs()
    nearest = (nearest + (beyond < here)).minimum(last)
    upward = (point > (nearest + offset) * stride).unsqueeze(-1)
    nearest, last = nearest.unsqueeze(-1), last.unsqueeze(-1)
    both = nearest.minimum(last - nearest)
    step = (rank + 1) // 2
    alternating = torch.where((rank % 2 == 1) == upward, step, -step)
    one_sided = torch.where(last - nearest > nearest, rank - both, both - rank)
    cell = nearest + torch.where(rank <= 2 * both, alternating, one_sided)
    return cell.clamp(min=0).minimum(last)


def cells_inside(length: int, stride: int, size: Tensor | None, like: Tensor) -> Tensor:
    """(B, 1) int64 how many of `length` rows or columns begin before `size` (B,), in the batch of `like` (B, ...)."""
    if size is None:
        return torch.full((like.shape[0], 1), length, device=like.device)
    begin = torch.arange(length, device=size.device) * stride
    return (begin < size.unsqueeze(1)).sum(1, keepdim=True)
