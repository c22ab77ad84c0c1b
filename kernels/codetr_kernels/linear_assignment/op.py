"""Linear assignment as an operator of torch: opaque to `torch.compile` and `torch.export`, with a fake kernel."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from codetr_kernels.backend import runs_triton
from codetr_kernels.linear_assignment.reference import linear_assignment_reference


@torch.library.custom_op("codetr_kernels::linear_assignment", mutates_args=())
def linear_assignment(cost: Tensor, num_objects: Tensor, repeat: int) -> tuple[Tensor, Tensor]:
    """`codetr_kernels.linear_assignment` (P, M * K) and its status (P,), by the kernels or by scipy."""
    if cost.numel() == 0:
        return _outputs(cost, repeat, fill=True)
    if not runs_triton(cost):
        return linear_assignment_reference(cost, num_objects, repeat)
    from codetr_kernels.linear_assignment.triton import launch

    reason = launch.beyond_kernels(cost, repeat)
    if reason is not None:
        warnings.warn(f"linear_assignment runs on the host, by scipy: {reason}", RuntimeWarning, stacklevel=2)
        return linear_assignment_reference(cost, num_objects, repeat)
    return launch.solve(cost.contiguous(), num_objects.contiguous(), repeat)


@linear_assignment.register_fake
def _(cost: Tensor, num_objects: Tensor, repeat: int) -> tuple[Tensor, Tensor]:
    return _outputs(cost, repeat, fill=False)


def _outputs(cost: Tensor, repeat: int, *, fill: bool) -> tuple[Tensor, Tensor]:
    problems, objects, _ = cost.shape
    assigned = cost.new_empty((problems, objects * repeat), dtype=torch.int64)
    status = cost.new_empty((problems,), dtype=torch.int32)
    return (assigned.fill_(-1), status.zero_()) if fill else (assigned, status)
