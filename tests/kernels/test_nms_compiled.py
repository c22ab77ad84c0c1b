"""The kernels of suppression compiled for GPUs that are not there, and the comparison that they make."""

# ruff: noqa: E402 (imports that need Triton stand behind the skip)

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

triton = pytest.importorskip("triton")

from codetr_kernels.compilation import Compiled
from codetr_kernels.nms.triton import launch
from codetr_kernels.nms.triton.inspection import rows

pytestmark = pytest.mark.skipif(
    "TRITON_INTERPRET" in os.environ, reason="TRITON_INTERPRET is set: kernels are interpreted, not compiled"
)


@pytest.fixture(scope="module", params=["sm_80", "sm_90"])
def compiled(request: pytest.FixtureRequest) -> dict[str, Compiled]:
    return {row.name: row for row in rows(request.param)}


def test_nothing_spills(compiled: dict[str, Compiled]) -> None:
    assert {
        "batched_nms/16-bit",
        "batched_nms/32-bit",
        "batched_nms/64-bit",
        "soft_nms/linear/32-bit/32",
        "soft_nms/gaussian/32-bit/512",
        "soft_nms/gaussian/64-bit/1024",
    } < set(compiled)
    assert {name: row.spills for name, row in compiled.items() if row.spills} == {}


def test_nothing_is_atomic(compiled: dict[str, Compiled]) -> None:
    """The order in which threads come is of no effect."""
    assert all(row.atomics == {} for row in compiled.values())


@pytest.mark.parametrize("bits", [16, 32])
def test_a_pair_of_boxes_costs_what_was_recorded(compiled: dict[str, Compiled], bits: int) -> None:
    """A turn holds the 64 candidates of a block against 64 kept boxes: 16 pairs a thread, of whose kept boxes it loads
    four corners and the group. 314 instructions with Triton 3.8, and a twentieth for other versions."""
    row = compiled[f"batched_nms/{bits}-bit"]
    assert launch.GREEDY_BLOCK**2 == 16 * 32 * launch.GREEDY_WARPS
    assert row.loop_loads == {4: 5}
    assert row.loop_instructions <= 1.05 * 314


def test_the_usual_soft_suppression_is_of_four_warps() -> None:
    assert [(n, launch.soft_block(n), launch.soft_warps(launch.soft_block(n))) for n in (1, 33, 300, 900, 24000)] == [
        (1, 32, 1),
        (33, 64, 1),
        (300, 512, 4),
        (900, 1024, 8),
        (24000, 1024, 8),
    ]


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.6, 0.7, 0.9, 0.999, 1.0])
def test_without_a_division_the_comparison_is_that_of_the_rounded_quotient(threshold: float) -> None:
    """As `kernels.exceeds` has it, with quotients within three numbers of the threshold.

    In float64 the product of two float32 is exact, and its difference to a float32 near it: one rounding, as fused.
    """
    half_bit = np.float32(launch.threshold_constants(threshold, torch.float32)["HALF_BIT"])
    nearest = np.float32(threshold)
    union = np.random.default_rng(0).uniform(1, 5000, 100_000).astype(np.float32)
    inter = nearest * union
    for _ in range(3):
        inter = np.nextafter(inter, np.float32(-1))
    for _ in range(7):
        inter = np.nextafter(inter, np.float32(np.inf))
        fused = (inter.astype(np.float64) - nearest.astype(np.float64) * union).astype(np.float32)
        found = fused > half_bit * union
        assert np.array_equal(found, inter / union > nearest)
