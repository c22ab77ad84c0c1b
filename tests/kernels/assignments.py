"""Small assignment problems, and what is always true of their solutions."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def problems(objects: int, queries: int) -> Tensor:
    """(12, M, N) float32: random, with ties, with copies, of extreme sizes."""
    shape = (objects, queries)
    normal = torch.randn(12, *shape)
    normal[1] = torch.randint(0, 4, shape)
    normal[2] = torch.randint(-3, 2, shape)
    normal[3] = 0
    normal[4] = normal[4, :1].clone()
    normal[5] = normal[5, :, :1].clone()
    normal[6] *= 1e29
    normal[7] -= 1000
    normal[8, :, ::2] = normal[8, :, :1].clone()
    normal[9] = torch.randint(-(2**14), 2**14, shape)
    normal[10] = (torch.rand(objects, 1) - torch.rand(1, queries)).abs()
    normal[11] *= 1e-30
    return normal


def counts(objects: int, size: int = 12) -> Tensor:
    """(P,) of objects that count: mostly all of them, and some of every kind of few."""
    found = torch.full((size,), objects)
    found[::4] = torch.randint(0, objects + 1, found[::4].shape)
    return found


def tiled(cost: Tensor, count: int, repeat: int) -> Tensor:
    """Costs of one problem's rows, in float64."""
    return cost[:count].double().cpu().repeat(repeat, 1)


def assert_best(assigned: Tensor, cost: Tensor, num_objects: Tensor, repeat: int) -> None:
    """A matching of the right rows and size in each problem, at scipy's total cost.

    Integers must meet it exactly. Else: of R rows, an edge's slack is rounded 3 times when it is found and 3 when its
    duals are set, and 2 times in each of the R insertions at most; numbers rounded are sums along paths, at most
    2 R times the largest cost; and slacks of the R edges found and of the R best ones make up the difference.
    """
    assert assigned.shape == (len(cost), repeat * cost.shape[1]) and assigned.dtype == torch.int64
    for found, costs, count in zip(assigned.cpu(), cost, num_objects.clamp(0, cost.shape[1]).tolist(), strict=True):
        found = found.view(repeat, -1)
        assert (found[:, count:] == -1).all()
        queries = found[:, :count].flatten()
        kept = queries >= 0
        assert kept.sum() == min(len(queries), costs.shape[1])
        assert len(queries[kept].unique()) == kept.sum() and (queries[kept] < costs.shape[1]).all()
        rows = tiled(costs, count, repeat)
        total = rows[kept.nonzero()[:, 0], queries[kept]].sum()
        best = rows[linear_sum_assignment(rows.numpy())].sum()
        size = len(rows)
        slack = 0.0
        if size and (rows != rows.round()).any():
            slack = 2 * size * (6 + 2 * size) * 2**-24 * 2 * size * rows.abs().max().item()
        assert abs(total - best) <= slack, f"{total} for {best}, {size} rows"


def unique(cost: Tensor, num_objects: Tensor, repeat: int = 1) -> Tensor:
    """(P, M * K) scipy's solution, for costs that have one only."""
    objects = cost.shape[1]
    found = torch.full((len(cost), repeat, objects), -1)
    for problem, count in enumerate(num_objects.clamp(0, objects).tolist()):
        rows, columns = map(torch.from_numpy, linear_sum_assignment(tiled(cost[problem], count, repeat).numpy()))
        found[problem, rows // max(count, 1), rows % max(count, 1)] = columns
    return found.flatten(1)
