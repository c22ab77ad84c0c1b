"""The kernels of the matching cost compiled for GPUs that are not there, and the launch that they are compiled for."""

# ruff: noqa: E402 (imports that need Triton stand behind the skip)

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")

from codetr_kernels import matching_cost, matching_cost_reference
from codetr_kernels.compilation import Compiled
from codetr_kernels.matching_cost.triton import inspection, launch
from codetr_kernels.matching_cost.triton.inspection import rows

pytestmark = pytest.mark.skipif(
    "TRITON_INTERPRET" in os.environ, reason="TRITON_INTERPRET is set: kernels are interpreted, not compiled"
)

TARGETS = ("sm_80", "sm_90")


@pytest.fixture(scope="module")
def shipped() -> dict[tuple[str, str], Compiled]:
    return {(target, row.name): row for target in TARGETS for row in rows(target)}


def test_every_variant_is_shown(shipped: dict[tuple[str, str], Compiled]) -> None:
    kinds, types = ("focal", "softmax", "log_total"), ("fp32", "bf16", "fp64")
    assert set(shipped) == {
        (on, f"matching_cost/{kind}/{dtype}") for on in TARGETS for kind in kinds for dtype in types
    }


def test_nothing_spills(shipped: dict[tuple[str, str], Compiled]) -> None:
    assert {key: row.spills for key, row in shipped.items() if row.spills} == {}


def test_nothing_is_added_to_memory_or_exchanged(shipped: dict[tuple[str, str], Compiled]) -> None:
    """Each pair is one thread's; only sums over classes pass between threads."""
    assert all(not row.atomics for row in shipped.values())
    assert {name for (_, name), row in shipped.items() if row.shared} == {
        name for _, name in shipped if "log_total" in name
    }


def test_a_thread_reads_a_query_once_for_all_objects_of_its_tile(shipped: dict[tuple[str, str], Compiled]) -> None:
    """Boxes in float32: four coordinates of its query and four of each object; a logit of each object, in bfloat16."""
    for on in TARGETS:
        loads = shipped[on, "matching_cost/focal/bf16"].loads
        assert loads[2] == 8 and loads[4] == 4 + 8 * 4


class Recorder:
    """Stands in for a kernel and keeps how it is launched."""

    def __init__(self) -> None:
        self.given: dict[str, object] = {}

    def __getitem__(self, grid: object) -> Callable[..., None]:
        def run(**given: object) -> None:
            self.given = given

        return run


def described(given: dict[str, object]) -> dict[str, object]:
    """Tensors by their types, sizes as numbers: their values do not matter."""
    numbers = ("logits_stride", "boxes_stride", "B", "M", "N")
    return {
        name: value.dtype if isinstance(value, Tensor) else int if name in numbers else value
        for name, value in given.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("class_cost", ["focal", "softmax"])
def test_kernels_are_compiled_for_what_they_are_launched_with(
    class_cost: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost, log_total = Recorder(), Recorder()
    monkeypatch.setattr(launch, "matching_cost_kernel", cost)
    monkeypatch.setattr(launch, "log_total_kernel", log_total)
    problem = inspection.example(class_cost, dtype)
    unflat = problem._replace(logits=problem.logits.unflatten(0, (6, 2)), boxes=problem.boxes.unflatten(0, (6, 2)))
    real = launch.Problem(*(torch.zeros_like(part, device="cpu") for part in unflat if part is not None))
    launch.matching_cost(real, launch.Settings(class_cost, 2.0, 5.0, 2.0, 0.25, 2.0))
    compiled: dict[str, dict[str, object]] = {}

    def keep(kernel: object, *, name: str, target: str, arguments: object, constants: object, num_warps: int) -> None:
        compiled[name] = {**arguments, **constants, "num_warps": num_warps}  # type: ignore[dict-item]

    monkeypatch.setattr(inspection, "compile_launch", keep)
    inspection.compile_cost(class_cost, dtype, "sm_90", name="cost")
    inspection.compile_log_total(dtype, "sm_90", name="log_total")
    assert described(cost.given) == described(compiled["cost"])
    if class_cost == "softmax":
        assert described(log_total.given) == described(compiled["log_total"])


def test_the_reference_is_compiled_with_the_rest_of_a_model() -> None:
    """On a CPU `matching_cost` is PyTorch's operations, in one graph."""
    logits, boxes = torch.randn(1, 2, 5, 3), torch.rand(1, 2, 5, 4)
    labels, targets = torch.tensor([[0, 2], [1, 1]]), torch.rand(2, 2, 4)
    weights = {"class_weight": 2.0, "l1_weight": 5.0, "giou_weight": 2.0}

    def costs(logits: Tensor, boxes: Tensor) -> Tensor:
        return matching_cost(logits, boxes, labels, targets, **weights)

    found = torch.compile(costs, backend="aot_eager", fullgraph=True)(logits, boxes)
    torch.testing.assert_close(found, matching_cost_reference(logits, boxes, labels, targets, **weights))
