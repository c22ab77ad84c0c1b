"""The solvers of linear assignment in Triton: in registers and in memory, against scipy and against their tie rule."""

# ruff: noqa: E402 (imports that need Triton stand behind the skip)

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from assignments import assert_best, counts, problems, unique
from samples import DEVICE
from torch import Tensor

triton = pytest.importorskip("triton")

from codetr_kernels import linear_assignment
from codetr_kernels.linear_assignment.triton import launch

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("garbage")]

Solver = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


def in_small_chunks(cost: Tensor, num_objects: Tensor, repeat: int) -> tuple[Tensor, Tensor]:
    """In memory, 16 queries at a time: several chunks, the last one not full."""
    return launch.in_memory(cost, num_objects, repeat, chunk=16)


SOLVERS = pytest.mark.parametrize("solver", [launch.in_registers, in_small_chunks])


def solved(solver: Solver, cost: Tensor, num_objects: Tensor, repeat: int = 1) -> tuple[Tensor, Tensor]:
    assigned, status = solver(cost.to(DEVICE), num_objects.to(DEVICE), repeat)
    return assigned.cpu(), status.cpu()


def by_rule(cost: Tensor) -> list[int]:
    """One problem of at most as many rows as columns by the documented rule, in float64."""
    rows, columns = cost.shape
    c = cost.double().tolist()
    u, v = [0.0] * rows, [0.0] * columns
    row_of: list[int | None] = [None] * columns
    for i in range(rows):
        distance, before = [float("inf")] * columns, [-1] * columns
        tree: list[int] = []
        row, least = i, 0.0
        while True:
            for j in range(columns):
                d = least + c[row][j] - u[row] - v[j]
                if j not in tree and d < distance[j]:
                    distance[j], before[j] = d, row
            rest = [j for j in range(columns) if j not in tree]
            nearest = min(rest, key=lambda j: (distance[j], row_of[j] is not None, j))
            least = distance[nearest]
            if row_of[nearest] is None:
                break
            tree.append(nearest)
            row = row_of[nearest]
        u[i] += least
        for j in tree:
            u[row_of[j]] += least - distance[j]
            v[j] -= least - distance[j]
        at = {row: j for j, row in enumerate(row_of) if row is not None}
        j = nearest
        while True:
            row_of[j] = before[j]
            if before[j] == i:
                break
            j = at[before[j]]
    return [row_of.index(i) for i in range(rows)]


@SOLVERS
@pytest.mark.parametrize(("objects", "queries", "repeat"), [(6, 18, 1), (7, 5, 1), (1, 17, 6), (2, 5, 3), (1, 1, 2)])
def test_totals_are_those_of_scipy(solver: Solver, objects: int, queries: int, repeat: int) -> None:
    cost, num = problems(objects, queries), counts(objects)
    assigned, status = solved(solver, cost, num, repeat)
    assert_best(assigned, cost, num, repeat)
    assert (status == 0).all()


@SOLVERS
@pytest.mark.parametrize(("objects", "queries"), [(8, 40), (8, 5)])
def test_a_single_best_assignment_is_found(solver: Solver, objects: int, queries: int) -> None:
    cost, num = torch.randn(4, objects, queries), counts(objects, 4)
    assert torch.equal(solved(solver, cost, num)[0], unique(cost, num))


@SOLVERS
@pytest.mark.parametrize(("objects", "queries"), [(5, 18), (6, 6)])
def test_ties_follow_the_rule(solver: Solver, objects: int, queries: int) -> None:
    cost = torch.randint(0, 3, (8, objects, queries)).float()
    assigned, _ = solved(solver, cost, torch.full((8,), objects))
    assert assigned.tolist() == [by_rule(costs) for costs in cost]


@SOLVERS
def test_ties_in_words(solver: Solver) -> None:
    # Free before taken, lowest index first; of equal rows too many, the last ones stay out.
    cost = torch.zeros(3, 3, 4)
    cost[1, :, 0] = 1
    cost[2, :, 1:] = 1
    assert solved(solver, cost, torch.full((3,), 3))[0].tolist() == [[0, 1, 2], [1, 2, 3], [0, 1, 2]]
    assert solved(solver, cost[:, :, :2].contiguous(), torch.full((3,), 3))[0].tolist()[0] == [0, 1, -1]


@SOLVERS
def test_copies_count_as_tiled_objects(solver: Solver) -> None:
    cost, num = torch.randint(0, 5, (3, 2, 17)).float(), torch.tensor([2, 1, 0])
    assigned, _ = solved(solver, cost, num, 3)
    for problem, count in enumerate(num.tolist()):
        rows = cost[problem : problem + 1, :count].repeat(1, 3, 1)
        if count:
            alone, _ = solved(solver, rows, torch.tensor([3 * count]))
            assert torch.equal(assigned[problem].view(3, 2)[:, :count].flatten(), alone[0])


@SOLVERS
def test_what_does_not_count_is_never_used(solver: Solver) -> None:
    cost, num = torch.randn(4, 4, 17), torch.tensor([4, 2, 1, 0])
    clean = solved(solver, cost, num)
    for filling in (float("nan"), float("inf"), -float("inf"), -1e38):
        dirty = torch.where((torch.arange(4) < num[:, None])[..., None], cost, filling)
        found = solved(solver, dirty, num)
        assert torch.equal(found[0], clean[0]) and torch.equal(found[1], clean[1]) and not clean[1].any()


@SOLVERS
@pytest.mark.parametrize("repeat", [1, 2])
def test_non_finite_costs_are_replaced_as_on_the_host(solver: Solver, repeat: int) -> None:
    cost, num = torch.randn(8, 3, 17), torch.tensor([3, 3, 3, 2, 3, 3, 3, 3])
    inf, nan = float("inf"), float("nan")
    cost[0, 1], cost[1, 2], cost[2, 0, 3], cost[3, 1, 2] = inf, nan, nan, -inf
    cost[4, :, :16], cost[5, 0], cost[6], cost[7, :2] = nan, -inf, inf, torch.tensor([[inf], [nan]])
    assigned, status = solved(solver, cost, num, repeat)
    assert status.tolist() == [1] * 8
    used = cost.clone()
    for problem, count in enumerate(num.tolist()):
        costs = cost[problem, :count]
        known = costs[costs.isfinite()] if costs.isfinite().any() else torch.zeros(1)
        spread = known.max() - known.min() if known.max() > known.min() else torch.tensor(1.0)
        margin = (count * repeat + 1) * spread
        high, low = (known.max() + margin).item(), (known.min() - margin).item()
        used[problem, :count] = costs.nan_to_num(high, high, low)
    assert_best(assigned, used, num, repeat)


@SOLVERS
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan"), 3e38, -3e38, 1e-45, -0.0])
def test_nothing_hangs(solver: Solver, value: float) -> None:
    cost = torch.full((3, 5, 7), value)
    cost[1, 0] = torch.randn(7)
    cost[2, :, 3:] = 0
    num = torch.tensor([5, 2**50, -(2**50)])
    assigned, status = solved(solver, cost, num)
    for found in assigned[:2]:
        assert len(found.unique()) == 5 and ((found >= 0) & (found < 7)).all()
    assert (assigned[2] == -1).all()
    assert (status & 2 == 0).all()
    few = solved(solver, cost[:2, :, :3].contiguous(), num[:2])[0]
    assert ((few >= 0).sum(1) == 3).all()


def test_both_solvers_agree_where_ties_are_many() -> None:
    cost, num = torch.randint(0, 2, (4, 6, 4)).float(), torch.tensor([6, 6, 5, 3])
    assert torch.equal(solved(launch.in_registers, cost, num)[0], solved(in_small_chunks, cost, num)[0])


def test_the_number_of_queries_picks_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    def mark(name: str) -> Callable[..., tuple[Tensor, Tensor]]:
        return lambda *_: (torch.empty(0), name)

    monkeypatch.setattr(launch, "in_registers", mark("registers"))
    monkeypatch.setattr(launch, "in_memory", mark("memory"))
    picked = [
        launch.solve(torch.empty(1, 1, queries, dtype=dtype), torch.ones(1), 1)[1]
        for dtype in (torch.float32, torch.float64)
        for queries in (2048, 2049, 4096, 4097)
    ]
    assert picked == ["registers", "registers", "registers", "memory", "registers", "memory", "memory", "memory"]


def test_beyond_the_kernels_the_host_solves_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "MOST_QUERIES", 8)
    cost = torch.randn(2, 3, 9, device=DEVICE)
    with pytest.warns(RuntimeWarning, match="9 queries; the kernels take 8"):
        assigned = linear_assignment(cost, torch.tensor([3, 2], device=DEVICE))
    assert torch.equal(assigned.cpu(), unique(cost.cpu(), torch.tensor([3, 2])))
    assert "32 bits" in str(launch.beyond_kernels(torch.empty(1, 2**29, 4, device="meta"), 1))
    assert "32 bits" in str(launch.beyond_kernels(torch.empty(1, 2**20, 4, device="meta"), 2**11))
    assert launch.beyond_kernels(torch.empty(1, 1, 8, device="meta"), 1) is None


@pytest.mark.gpu
@pytest.mark.parametrize("num_warps", [1, 2, 4, 8, 16])
def test_any_number_of_warps_gives_the_same(num_warps: int) -> None:
    cost, num = torch.randint(0, 9, (200, 30, 300)).float(), torch.randint(0, 31, (200,))
    cost, num = cost.to(DEVICE), num.to(DEVICE)
    expected = launch.in_registers(cost, num, 1)[0]
    found, status = launch.in_registers(cost, num, 1, num_warps=num_warps)
    assert torch.equal(found, expected) and not status.any()
    assert torch.equal(launch.in_memory(cost, num, 1)[0], expected)
    assert_best(found, cost, num, 1)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("size", "objects", "queries", "repeat"),
    [(300, 60, 300, 1), (208, 300, 100, 1), (64, 100, 900, 1), (16, 300, 900, 1), (4, 1024, 1800, 1), (14, 60, 1500, 6),
     (4, 200, 4096, 1), (4, 60, 22223, 1), (1, 20, 65536, 1), (700, 12, 40, 2)],
)  # fmt: skip
def test_full_sizes(size: int, objects: int, queries: int, repeat: int) -> None:
    # Integers: totals are exact, and float32 has no excuse.
    cost = torch.randint(-1000, 1000, (size, objects, queries)).float().to(DEVICE)
    num = torch.randint(0, objects + 1, (size,)).to(DEVICE)
    num[0] = objects
    first, status = linear_assignment(cost, num, repeat=repeat, return_status=True)
    assert_best(first, cost, num, repeat)
    assert not status.any()
    assert torch.equal(first, linear_assignment(cost, num, repeat=repeat))


@pytest.mark.gpu
def test_sizes_do_not_compile_again(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []

    def solve_all(sizes: list[tuple[int, int, int]]) -> None:
        for objects, queries, repeat in sizes:
            cost = torch.rand(2, objects, queries, device=DEVICE)
            linear_assignment(cost, torch.tensor([objects, 1], device=DEVICE), repeat=repeat)

    solve_all([(5, 900, 1), (5, 5000, 1)])
    monkeypatch.setattr(triton.knobs.runtime, "jit_cache_hook", lambda **known: compiled.append(known["repr"]))
    solve_all([(1, 1000, 1), (16, 1024, 2), (77, 513, 3), (32, 600, 16), (1, 22223, 1), (16, 8192, 2)])
    assert compiled == []


@pytest.mark.gpu
def test_no_wait_for_the_device_and_captured_in_a_graph() -> None:
    cost, num = torch.rand(14, 60, 900, device=DEVICE), torch.full((14,), 60, device=DEVICE)
    expected = linear_assignment(cost, num)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert linear_assignment(cost, num, return_status=True)[0].shape == (14, 60)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = linear_assignment(cost, num)
    captured.fill_(-5)
    graph.replay()
    assert torch.equal(captured, expected)
