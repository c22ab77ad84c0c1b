"""The solvers of linear assignment, compiled for GPUs that are not there."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton")

from codetr_kernels.compilation import Compiled
from codetr_kernels.compilation.signature import meta
from codetr_kernels.linear_assignment.triton import inspection, launch
from codetr_kernels.linear_assignment.triton.kernels import solve_in_registers
from codetr_kernels.linear_assignment.triton.memory.kernels import solve_in_memory

pytestmark = pytest.mark.skipif(
    "TRITON_INTERPRET" in os.environ, reason="TRITON_INTERPRET is set: kernels are interpreted, not compiled"
)


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize(
    ("dtype", "lanes"),
    # Fewer lanes have fewer columns in a thread, or the same with fewer warps; bfloat16 differs in a conversion.
    [("float32", 256), ("float32", 1024), ("float32", 2048), ("float32", 4096), ("float64", 1024), ("float64", 2048),
     ("bfloat16", 4096)],
)  # fmt: skip
def test_state_stays_in_registers(target: str, dtype: str, lanes: int) -> None:
    compiled = inspection.registers_row(target, dtype, lanes)
    assert compiled.spills == 0
    # Nothing passes between threads but what a reduction hands from warp to warp.
    assert compiled.shared <= 8 * 8
    assert not compiled.atomics


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_chunks_fit_the_registers(target: str, dtype: str) -> None:
    assert inspection.memory_row(target, dtype).spills == 0


def test_every_variant_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "registers_row", lambda target, dtype, lanes: f"{dtype}/{lanes}")
    monkeypatch.setattr(inspection, "memory_row", lambda target, dtype: f"{dtype}/memory")
    names = list(inspection.rows("sm_90"))
    assert len(names) == len({*names}) == 23
    launched = {
        f"{name}/{launch.block_n(meta(1, 1, queries, dtype=dtype))}"
        for name, dtype in inspection.DTYPES.items()
        for queries in range(1, launch.MOST_IN_REGISTERS // launch.words(meta(dtype=dtype)) + 1)
    }
    assert launched == {name for name in names if not name.endswith("memory")}


def test_sizes_are_no_part_of_a_variant() -> None:
    for kernel in (solve_in_registers, solve_in_memory):
        free = {parameter.name for parameter in kernel.params if parameter.do_not_specialize}
        assert free == {"M", "N", "K"}
    one, other = (meta(2, objects, queries, dtype=torch.float32) for objects, queries in ((5, 900), (60, 1000)))
    assert launch.register_constants(one) == launch.register_constants(other)
    assert launch.warps(one) == launch.warps(other) == 4


def test_a_row_is_named() -> None:
    row = inspection.registers_row("sm_90", "float32", 64)
    assert isinstance(row, Compiled) and (row.name, row.target) == ("linear_assignment/float32/64", "sm_90")
