"""The Triton kernels of the matching cost against the reference in float64: on a GPU, or in the interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from codetr_kernels import matching_cost_reference, which_backend
from codetr_kernels.matching_cost import op
from pairs import WEIGHTS, Pairs, pairs, parts
from samples import DEVICE
from torch import Tensor

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("garbage")]

# Corners are below 1.375 and rounded by 2**-24, sides by twice that, so overlaps and hulls of sides up to 1.75 by
# 2 * 1.75 * 2**-23. Unions and hulls are at least 1/16: each of the two quotients is off by 16 * 2 * that, GIoU by
# 2.7e-5, and counts twice. Distances and class costs are off by a few 2**-24 of numbers up to 20.
BOUND = 2 * 2.7e-5 + 20 * 4 * 2**-24
TOLERANCE = {torch.float32: BOUND, torch.float64: BOUND * 2**-29}


@pytest.fixture(autouse=True)
def _kernels_run() -> None:
    assert which_backend(DEVICE).name == "triton"


def expected(problem: Pairs, **settings: object) -> Tensor:
    """By the reference, in float64, of all objects."""
    exact = parts(problem, torch.float64)
    inputs = (exact.logits, exact.boxes, exact.labels, exact.target_boxes)
    return matching_cost_reference(*inputs, None, **WEIGHTS | settings)  # type: ignore[arg-type]


def assert_close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=TOLERANCE[found.dtype])


@pytest.mark.parametrize("class_cost", ["focal", "softmax"])
@pytest.mark.parametrize(
    ("case", "settings"),
    [
        ("one pair", {"layers": 1, "images": 1, "queries": 1, "objects": 1, "classes": 1}),
        ("more than a tile", {"layers": 1, "images": 1, "queries": 131, "objects": 9}),
        ("a whole tile", {"layers": 1, "images": 1, "queries": 128, "objects": 8}),
        ("more classes than a block", {"layers": 1, "images": 1, "queries": 17, "objects": 2, "classes": 300}),
        ("layers and images", {"layers": 3, "images": 2}),
    ],
)
def test_costs(case: str, settings: dict[str, int], class_cost: str) -> None:
    problem = pairs(**settings)
    assert_close(problem.cost(class_cost=class_cost), expected(problem, class_cost=class_cost))


@pytest.mark.parametrize("class_cost", ["focal", "softmax"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_are_widened_as_they_are_read(dtype: torch.dtype, class_cost: str) -> None:
    problem = parts(pairs(), dtype)
    settings = {"class_cost": class_cost, "alpha": 0.3, "gamma": 1.7, "class_weight": 0.7, "giou_weight": 1.1}
    assert_close(problem.cost(**settings), expected(problem, **settings))


def test_types_may_differ() -> None:
    problem = pairs()
    mixed = replace(problem, logits=problem.logits.bfloat16(), target_boxes=problem.target_boxes.half())
    found = mixed.cost()
    assert found.dtype == torch.float32
    assert_close(found, expected(mixed))
    wide = replace(problem, boxes=problem.boxes.double())
    assert wide.cost().dtype == torch.float64
    assert_close(wide.cost(), expected(wide))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_rows_of_no_object_are_not_written(dtype: torch.dtype) -> None:
    """Whatever their number: more than there are rows are all of them, fewer than none are none."""
    problem, wanted = pairs(images=4, objects=10), expected(pairs(images=4, objects=10))
    for counts in ([10, 9, 3, 0], [99, -3, 8, 1]):
        found = problem.cost(num_objects=torch.tensor(counts, dtype=dtype, device=DEVICE))
        for row in range(8):
            count = min(max(counts[row % 4], 0), 10)
            assert_close(found[row, :count], wanted[row, :count])
            assert found[row, count:].isnan().all()


def test_slices_of_all_queries_are_read_in_place() -> None:
    from codetr_kernels.matching_cost.triton.launch import Problem

    problem = pairs(queries=9)
    part = replace(problem, logits=problem.logits[:, :, 3:7], boxes=problem.boxes[:, :, 3:7])
    for class_cost in ("focal", "softmax"):
        settings = {"class_cost": class_cost, "valid": part.valid[:, 3:7]}
        assert torch.equal(part.cost(**settings), problem.cost(**settings | {"valid": part.valid})[:, :, 3:7])
    flat = Problem(part.logits, part.boxes, part.labels, part.target_boxes, None, None).flat()
    assert flat.logits.data_ptr() == part.logits.data_ptr() and flat.boxes.data_ptr() == part.boxes.data_ptr()


def test_any_strides() -> None:
    problem, wanted = pairs(), pairs().cost(num_objects=pairs().num_objects, valid=pairs().valid)
    strided = Pairs(
        problem.logits.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        problem.boxes.transpose(2, 3).contiguous().transpose(2, 3),
        problem.labels.t().contiguous().t(),
        problem.target_boxes.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        torch.stack([problem.num_objects, problem.num_objects], 1)[:, 0],
        problem.valid.t().contiguous().t(),
    )
    found = strided.cost(num_objects=strided.num_objects, valid=strided.valid)
    assert torch.equal(found.nan_to_num(-1.0), wanted.nan_to_num(-1.0))


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning", "ignore:divide by zero:RuntimeWarning")
@pytest.mark.parametrize("class_cost", ["focal", "softmax"])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_numbers_that_are_not_finite_are_so_where_they_are(value: float, class_cost: str) -> None:
    problem = pairs()
    problem.boxes[0, 0, 2, 0] = value
    problem.logits[1, 1, 0] = value
    found = problem.cost(class_cost=class_cost)
    bad = torch.zeros_like(found, dtype=torch.bool)
    bad[0, :, 2] = bad[3, :, 0] = True
    assert torch.equal(found.isfinite(), ~bad)
    assert_close(found[~bad], expected(problem, class_cost=class_cost)[~bad])


def test_the_operator_is_registered_as_torch_wants_it() -> None:
    problem = pairs()
    inputs = (problem.logits, problem.boxes, problem.labels, problem.target_boxes)
    for class_cost in ("focal", "softmax"):
        settings = (None, problem.valid, class_cost, 2.0, 5.0, 2.0, 0.25, 2.0)
        torch.library.opcheck(op.matching_cost, (*inputs, *settings))
        torch.library.opcheck(
            op.matching_cost, (*(x.double() if x.is_floating_point() else x for x in inputs), *settings)
        )


def test_compiled_and_exported_it_stays_one_operator() -> None:
    problem = pairs()
    inputs = (problem.logits, problem.boxes, problem.labels, problem.target_boxes, None, problem.valid)
    module = Costs()
    wanted = module(*inputs)
    assert torch.equal(torch.compile(module, backend="aot_eager", fullgraph=True)(*inputs), wanted)
    exported = torch.export.export(module, inputs)
    assert torch.equal(exported.module()(*inputs), wanted)
    assert torch.ops.codetr_kernels.matching_cost.default in [node.target for node in exported.graph.nodes]


class Costs(torch.nn.Module):
    def forward(
        self, logits: Tensor, boxes: Tensor, labels: Tensor, target_boxes: Tensor, counts: None, valid: Tensor
    ) -> Tensor:
        from codetr_kernels import matching_cost

        return matching_cost(logits, boxes, labels, target_boxes, counts, valid, **WEIGHTS)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="of the sizes of a detector")
@pytest.mark.parametrize("class_cost", ["focal", "softmax"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("queries", [300, 900, 22223])
def test_the_sizes_of_a_detector(queries: int, dtype: torch.dtype, class_cost: str) -> None:
    layers = 1 if queries > 900 else 6
    problem = parts(pairs(layers=layers, queries=queries, objects=100, classes=92), dtype)
    found = problem.cost(class_cost=class_cost)
    assert_close(found, expected(problem, class_cost=class_cost))
    assert torch.equal(problem.cost(class_cost=class_cost), found)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="synchronisation and captured graphs are a GPU's")
def test_nothing_waits_for_the_host_and_graphs_are_replayed() -> None:
    problem = pairs(queries=300, objects=20)
    settings = {"num_objects": problem.num_objects, "valid": problem.valid}
    wanted = problem.cost(**settings)
    torch.cuda.set_sync_debug_mode("error")
    try:
        problem.cost(**settings)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = problem.cost(**settings)
    graph.replay()
    rows = torch.arange(20, device=DEVICE) < problem.num_objects.repeat(2)[:, None]
    assert torch.equal(found[rows], wanted[rows])
