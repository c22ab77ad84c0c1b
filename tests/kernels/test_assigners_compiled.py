"""The assigners' kernels, compiled for GPUs that are not there."""

# ruff: noqa: E402 (imports that need Triton stand behind the skip)

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")

from codetr_kernels.assigners.triton import inspection, launch
from codetr_kernels.compilation import Compiled

pytestmark = pytest.mark.skipif(
    "TRITON_INTERPRET" in os.environ, reason="TRITON_INTERPRET is set: kernels are interpreted, not compiled"
)


@pytest.fixture(scope="module", params=["sm_80", "sm_90"])
def compiled(request: pytest.FixtureRequest) -> dict[str, Compiled]:
    return {row.name: row for row in inspection.rows(request.param)}


def test_nothing_spills(compiled: dict[str, Compiled]) -> None:
    assert len(compiled) == 9
    assert {name: row.spills for name, row in compiled.items() if row.spills} == {}


def test_atomics_are_maxima_of_integers_in_one_instruction(compiled: dict[str, Compiled]) -> None:
    """Which commute: their result does not depend on the order."""
    found = {name: set(row.atomics) for name, row in compiled.items() if row.atomics}
    assert found == {
        "best_overlap/anchors": {"red.global.max.s32"},
        "atss/top 9": {"red.global.max.s64"},
        "atss/top 32": {"red.global.max.s64"},
    }
    assert not any(row.has_cas for row in compiled.values())


@pytest.mark.parametrize("kernel", ["best_overlap_kernel", "max_iou_kernel", "atss_kernel", "decode_kernel"])
def test_what_is_compiled_is_what_is_launched(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Types of arguments and constants of the launches on the CPU, which does not run them."""
    launched: dict[str, tuple[dict[str, object], dict[str, object]]] = {}

    def record(self: launch.Launch, kernel: triton.JITFunction, grid: object) -> None:
        launched[kernel.fn.__name__] = (types(self.arguments), self.constants)

    monkeypatch.setattr(launch.Launch, "__call__", record)
    scene = launch.Scene.of(
        torch.rand(sum(inspection.sizes()), 4),
        torch.ones(2, sum(inspection.sizes()), dtype=torch.bool),
        torch.rand(2, 3, 4),
        torch.ones(2, 3, dtype=torch.bool),
    )
    launch.max_iou(scene, positive=0.7, negative=0.3, low_quality=0.3)
    place = launch.Place(inspection.SIDES, inspection.STRIDES, 0.0, torch.ones(2, 2))
    launch.atss(scene, place, topk=9, margin=0.01)
    planned = {function.fn.__name__: plan for function, plan in reversed(inspection.variants().values())}
    if kernel == "atss_kernel":
        planned[kernel] = inspection.variants()["atss/top 9"][1]
    if kernel == "max_iou_kernel":
        planned[kernel] = inspection.variants()["max_iou/anchors"][1]
    assert launched[kernel] == (types(planned[kernel].arguments), planned[kernel].constants)


def types(arguments: dict[str, object]) -> dict[str, object]:
    return {name: value.dtype if isinstance(value, Tensor) else type(value) for name, value in arguments.items()}
