"""The kernels of class losses compiled: no spills, and vectors where rows are aligned."""

# ruff: noqa: E402 (imports that need Triton stand behind the skip)

from __future__ import annotations

import os

import pytest

triton = pytest.importorskip("triton")

from codetr_kernels.compilation import Compiled
from codetr_kernels.losses.triton import launch
from codetr_kernels.losses.triton.inspection import class_losses, rows

pytestmark = pytest.mark.skipif(
    "TRITON_INTERPRET" in os.environ, reason="TRITON_INTERPRET is set: kernels are interpreted, not compiled"
)


@pytest.fixture(scope="module", params=["sm_80", "sm_90"])
def compiled(request: pytest.FixtureRequest) -> dict[str, Compiled]:
    return {row.name: row for row in rows(request.param)}


def test_nothing_spills(compiled: dict[str, Compiled]) -> None:
    assert len(compiled) == 16
    assert {name: row.spills for name, row in compiled.items() if row.spills} == {}


def test_rows_of_80_classes_are_read_in_vectors(compiled: dict[str, Compiled]) -> None:
    for name, row in compiled.items():
        if "/k80/" in name:
            assert max(row.loop_loads) == 16, name


def test_an_entry_costs_what_was_recorded(compiled: dict[str, Compiled]) -> None:
    """Instructions of a thread and entry as compiled by Triton 3.8, and a tenth for other versions."""
    entries = launch.ENTRIES // (32 * launch.NUM_WARPS)
    budget = {"focal_loss/k80/2/bf16/forward": 56, "focal_loss/k80/2/bf16/backward": 65}
    found = {name: compiled[name].loop_instructions / entries for name in budget}
    assert {name: cost for name, cost in found.items() if cost > 1.1 * budget[name]} == {}


def test_gradients_are_not_summed_by_atomics(compiled: dict[str, Compiled]) -> None:
    assert all(row.atomics == {} for row in compiled.values())


def test_focal_loss_on_amd() -> None:
    assert [row.spills for row in class_losses("gfx942", "bf16", 80, 2.0, has_quality=False)] == [0, 0]
