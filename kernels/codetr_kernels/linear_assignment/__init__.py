"""Batched linear assignment, the bipartite matching of DETR: contract and dispatch.

Source: Carion et al., arXiv 2005.12872, equation 1; repeats: Jia et al., H-DETR, arXiv 2207.13080.

Dimension key: P problems, M objects, N queries, K repeats.
"""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from codetr_kernels.linear_assignment import op

__all__ = ["linear_assignment"]

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@overload
def linear_assignment(
    cost: Tensor, num_objects: Tensor, *, repeat: int = 1, return_status: Literal[False] = False
) -> Tensor: ...


@overload
def linear_assignment(
    cost: Tensor, num_objects: Tensor, *, repeat: int = 1, return_status: Literal[True]
) -> tuple[Tensor, Tensor]: ...


def linear_assignment(
    cost: Tensor, num_objects: Tensor, *, repeat: int = 1, return_status: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """The query of each object, so that the sum of their costs is the least possible; P problems at once.

    cost: (P, M, N) floating-point, objects by queries; contiguous is read as it is, anything else copied. num_objects:
    (P,) int32 or int64 on the device of `cost`, how many objects of each problem count, the first ones, clamped to
    [0, M]; costs of the others are never read. repeat: how many queries an object takes.
    Returns (P, K * M) int64, the query of copy k of object m at k * M + m, as if the objects were tiled; -1 where
    there is no object, or no query for it. Every problem has min(K * objects, N) pairs: of more objects than queries
    those stay out that leave the least total. return_status: also (P,) int32, to be read when it does no harm to wait
    for the device: 1 where a cost was not finite, plus 2 where a loop was cut off, which no input is known to do.

    Integers, without gradients, the same in every run; a GPU is never waited for where the Triton kernels run. They
    compute in float32 (float64 for float64): integers are exact as long as twice the rows (K * objects) times the
    largest cost stays below 2**24. Of equally good assignments theirs follows from this rule: rows are inserted in
    the order of the result; among columns at the least distance a free one comes before a taken one, then the lowest
    index; of rows that may be left out at equal cost the one being inserted is. Elsewhere scipy solves the same costs
    on the host, after one copy, and breaks ties its own way, as it does beyond 65,536 queries (RuntimeWarning).

    inf and NaN count as the largest finite cost of the problem, -inf as the smallest, plus or minus (rows + 1) times
    their difference: pairs of inf or NaN are taken only where no others are left. Finite costs are clamped to 2**100.

    Raises: ValueError for shapes, types or devices that do not fit, or a repeat below 1.
    """
    _check(cost, num_objects, repeat)
    assigned, status = op.linear_assignment(cost.detach(), num_objects, repeat)
    return (assigned, status) if return_status else assigned


def _check(cost: Tensor, num_objects: Tensor, repeat: int) -> None:
    if cost.dim() != 3 or cost.dtype not in _FLOATS:
        raise ValueError(
            f"cost must be (problems, objects, queries) of a floating-point type of 16 to 64 bits, "
            f"got {cost.dtype} {tuple(cost.shape)}"
        )
    if num_objects.shape != cost.shape[:1] or num_objects.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"num_objects must be int32 or int64 ({cost.shape[0]},), one number a problem of cost, "
            f"got {num_objects.dtype} {tuple(num_objects.shape)}"
        )
    if num_objects.device != cost.device:
        raise ValueError(f"one device needed, got cost on {cost.device}, num_objects on {num_objects.device}")
    if repeat < 1:
        raise ValueError(f"repeat must be at least 1, got {repeat}")
