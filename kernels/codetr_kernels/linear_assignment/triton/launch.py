"""From tensors to a launch: which solver, lanes, warps, buffers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from codetr_kernels.launching import device_of
from codetr_kernels.linear_assignment.triton.kernels import solve_in_registers
from codetr_kernels.linear_assignment.triton.memory.kernels import solve_in_memory

MOST_IN_REGISTERS = 4096
"""Queries whose state fits the registers of 8 warps, in float32; half of them in float64."""

MOST_QUERIES = 65536
"""Two-stage detectors match some 22,000 tokens; beyond this the host is as fast."""

MOST_NUMBERS = 2**31 - 1
"""Places within one problem, its costs or its objects with their copies, are counted in 32 bits."""

CHUNK, CHUNK_WARPS = 2048, 8
"""Queries at a time, where their state is in memory: 8 in a thread; with 16 some would be spilled."""


def beyond_kernels(cost: Tensor, repeat: int) -> str | None:
    """Why the kernels cannot solve this; None if they can."""
    _, objects, queries = cost.shape
    if queries > MOST_QUERIES:
        return f"{queries} queries; the kernels take {MOST_QUERIES}"
    if objects * max(queries, repeat) > MOST_NUMBERS:
        return f"{objects} objects, {queries} queries, repeat {repeat}; the kernels count a problem in 32 bits"
    return None


def solve(cost: Tensor, num_objects: Tensor, repeat: int) -> tuple[Tensor, Tensor]:
    """(P, M * K) int64 and (P,) int32 of contiguous arguments, none of them empty."""
    if cost.shape[2] * words(cost) <= MOST_IN_REGISTERS:
        return in_registers(cost, num_objects, repeat)
    return in_memory(cost, num_objects, repeat)


def in_registers(
    cost: Tensor, num_objects: Tensor, repeat: int, *, num_warps: int | None = None
) -> tuple[Tensor, Tensor]:
    """`solve` for at most MOST_IN_REGISTERS queries. num_warps: default `warps`."""
    assigned, status = outputs(cost, repeat)
    constants = register_constants(cost)
    with device_of(cost):
        solve_in_registers[(len(cost),)](
            cost,
            num_objects,
            assigned,
            status,
            *cost.shape[1:],
            repeat,
            **constants,
            num_warps=num_warps or warps(cost),
        )
    return assigned, status


def in_memory(cost: Tensor, num_objects: Tensor, repeat: int, *, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """`solve` for any number of queries, `chunk` of them at a time."""
    assigned, status = outputs(cost, repeat)
    floats, integers = scratch(cost)
    with device_of(cost):
        solve_in_memory[(len(cost),)](
            cost,
            num_objects,
            assigned,
            status,
            floats,
            integers,
            *cost.shape[1:],
            repeat,
            **memory_constants(cost, chunk),
            num_warps=CHUNK_WARPS,
        )
    return assigned, status


def outputs(cost: Tensor, repeat: int) -> tuple[Tensor, Tensor]:
    """Of either kernel, not yet written."""
    problems, objects, _ = cost.shape
    assigned = cost.new_empty((problems, objects * repeat), dtype=torch.int64)
    return assigned, cost.new_empty(problems, dtype=torch.int32)


def scratch(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Three floats and three integers of each column."""
    problems, _, queries = cost.shape
    compute = torch.promote_types(cost.dtype, torch.float32)
    return cost.new_empty((problems, 3, queries), dtype=compute), cost.new_empty(
        (problems, 3, queries), dtype=torch.int32
    )


def register_constants(cost: Tensor) -> dict[str, object]:
    """What `solve_in_registers` is compiled for."""
    return {"ACC": acc(cost), "BLOCK_N": block_n(cost), "BLOCK": 1024 * warps(cost) // words(cost)}


def memory_constants(cost: Tensor, chunk: int = CHUNK) -> dict[str, object]:
    """What `solve_in_memory` is compiled for."""
    return {"ACC": acc(cost), "BLOCK_N": chunk, "BLOCK": 4 * chunk // words(cost)}


def acc(cost: Tensor) -> tl.dtype:
    """Of the arithmetic."""
    return tl.float64 if cost.dtype == torch.float64 else tl.float32


def block_n(cost: Tensor) -> int:
    """Lanes of a program: the queries, rounded up to a power of two, at least 64."""
    return max(64, int(triton.next_power_of_2(cost.shape[2])))


def warps(cost: Tensor) -> int:
    """So that a thread has 8 queries, 4 in float64, or twice as many where 8 warps are too few for that."""
    return min(8, max(1, block_n(cost) * words(cost) // 256))


def words(cost: Tensor) -> int:
    """Registers of a number."""
    return 2 if cost.dtype == torch.float64 else 1
