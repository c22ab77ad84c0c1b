"""Linear assignment on the host, by scipy: what runs on every device but a GPU that runs the kernels."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 2.0**100
"""Finite costs are clamped to its size, about 1e30."""

NON_FINITE = 1
"""Bit of the status: some cost was inf, -inf or NaN, and was replaced."""

BOUND_REACHED = 2
"""Bit of the status: a loop of the kernels was cut off. Never expected; never set here."""


def linear_assignment_reference(cost: Tensor, num_objects: Tensor, repeat: int) -> tuple[Tensor, Tensor]:
    """`codetr_kernels.linear_assignment` and its status, on the device of `cost`; costs reach the host in one copy."""
    from scipy.optimize import linear_sum_assignment  # Half a second to import.

    problems, objects, queries = cost.shape
    assigned = torch.full((problems, repeat, objects), -1, dtype=torch.int64)
    place = assigned.numpy()  # The same memory; numpy's small operations cost a tenth of torch's.
    status = [0] * problems
    costs = cost.detach().cpu()
    costs = costs.to(torch.promote_types(costs.dtype, torch.float32))
    for problem, count in enumerate(num_objects.clamp(0, objects).tolist()):
        if count == 0 or queries == 0:
            continue
        usable, status[problem] = finite(costs[problem, :count], rows=count * repeat)
        tiled = usable if repeat == 1 else usable.repeat(repeat, 1)
        rows, columns = linear_sum_assignment(tiled.numpy())
        place[problem, rows // count, rows % count] = columns
    return assigned.flatten(1).to(cost.device), torch.tensor(status, dtype=torch.int32).to(cost.device)


def finite(cost: Tensor, *, rows: int) -> tuple[Tensor, int]:
    """Costs that are all finite, and the status that says whether any was not.

    inf and NaN become so large, and -inf so small, that no `rows` other costs outweigh one of them: a pair that costs
    inf is taken only where no finite assignment exists, one that costs -inf wherever it can be.
    """
    least, most = torch.aminmax(cost)  # NaN if any is.
    if bool((least >= -LARGEST) & (most <= LARGEST)):
        return cost, 0
    is_finite = cost.isfinite()
    cost = torch.where(is_finite, cost.clamp(-LARGEST, LARGEST), cost)
    if bool(is_finite.all()):
        return cost, 0
    known = cost[is_finite] if bool(is_finite.any()) else cost.new_zeros(1)
    low, high = known.min(), known.max()
    # Where all finite costs are equal, their size serves; where that is zero, 1.
    spread = torch.where(high > low, high - low, torch.where(high == 0, 1.0, high.abs()))
    margin = (rows + 1) * spread
    cost = torch.where(cost == -torch.inf, low - margin, cost)
    return torch.where(is_finite | (cost < torch.inf), cost, high + margin), NON_FINITE
