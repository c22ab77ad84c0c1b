"""Every shipped variant, compiled for a GPU that is not there: what its machine code looks like."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from codetr_kernels.compilation import Compiled
from codetr_kernels.compilation.signature import compile_launch, meta
from codetr_kernels.linear_assignment.triton import launch
from codetr_kernels.linear_assignment.triton.kernels import solve_in_registers
from codetr_kernels.linear_assignment.triton.memory.kernels import solve_in_memory

LANES = (64, 128, 256, 512, 1024, 2048, 4096)
"""Of the solver in registers: one variant each."""

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
"""Of the costs. float16 differs from bfloat16 in one conversion."""


def rows(target: str) -> Iterator[Compiled]:
    """Compile the variants of a target: "linear_assignment/float32/1024" by lanes, ".../memory" for more queries."""
    for dtype in DTYPES:
        for lanes in LANES:
            if lanes * launch.words(meta(dtype=DTYPES[dtype])) <= launch.MOST_IN_REGISTERS:
                yield registers_row(target, dtype, lanes)
        yield memory_row(target, dtype)


def registers_row(target: str, dtype: str, lanes: int) -> Compiled:
    """`solve_in_registers`, as `launch` launches it for as many queries as it has lanes."""
    cost = meta(14, 60, lanes, dtype=DTYPES[dtype])
    assigned, status = launch.outputs(cost, 1)
    return compile_launch(
        solve_in_registers,
        name=f"linear_assignment/{dtype}/{lanes}",
        target=target,
        arguments={
            **{"cost": cost, "num_objects": meta(14, dtype=torch.int32), "assigned": assigned, "status": status},
            **{"M": 60, "N": lanes, "K": 1},
        },
        constants=launch.register_constants(cost),
        num_warps=launch.warps(cost),
    )


def memory_row(target: str, dtype: str) -> Compiled:
    """`solve_in_memory`, as `launch` launches it for the tokens of a two-stage detector."""
    cost = meta(14, 60, 22223, dtype=DTYPES[dtype])
    (assigned, status), (floats, integers) = launch.outputs(cost, 1), launch.scratch(cost)
    return compile_launch(
        solve_in_memory,
        name=f"linear_assignment/{dtype}/memory",
        target=target,
        arguments={
            **{"cost": cost, "num_objects": meta(14, dtype=torch.int32), "assigned": assigned, "status": status},
            **{"floats": floats, "integers": integers, "M": 60, "N": 22223, "K": 1},
        },
        constants=launch.memory_constants(cost),
        num_warps=launch.CHUNK_WARPS,
    )
