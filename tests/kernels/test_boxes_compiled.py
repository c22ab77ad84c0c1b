"""The kernels of boxes compiled: no spills, whole rows read at once, and what is inspected is what is launched."""

# ruff: noqa: E402 (imports that need Triton stand behind the skip)

from __future__ import annotations

import os

import pytest

triton = pytest.importorskip("triton")

from codetr_kernels.boxes.triton import inspection
from codetr_kernels.boxes.triton.inspection import rows
from codetr_kernels.compilation import Compiled

pytestmark = pytest.mark.skipif(
    "TRITON_INTERPRET" in os.environ, reason="TRITON_INTERPRET is set: kernels are interpreted, not compiled"
)


@pytest.fixture(scope="module", params=["sm_80", "sm_90"])
def compiled(request: pytest.FixtureRequest) -> dict[str, Compiled]:
    return {row.name: row for row in rows(request.param)}


def test_nothing_spills(compiled: dict[str, Compiled]) -> None:
    assert len(compiled) == 4 + 5 * 2
    assert {name: row.spills for name, row in compiled.items() if row.spills} == {}


def test_boxes_are_read_as_rows(compiled: dict[str, Compiled]) -> None:
    """16 bytes a box of float32 targets, 8 of bfloat16 predictions; 4 bytes are gradients of the loss."""
    for name, row in compiled.items():
        if "_loss/" in name:
            expected = {16: 4} if name.endswith("fp32") else {8: 2, 16: 2}
            if "/backward/" in name:
                expected[4] = 2
            assert row.loads == expected, name
    assert set(compiled["pairwise_giou/16x128"].loads) == {16}


def test_gradients_are_not_summed_by_atomics(compiled: dict[str, Compiled]) -> None:
    assert all(row.atomics == {} for row in compiled.values())


def test_pairs_on_amd() -> None:
    row = inspection.pairwise("gfx942", inspection.DTYPES["fp32"], 300, general=True, cxcywh=True)
    assert row.spills == 0
