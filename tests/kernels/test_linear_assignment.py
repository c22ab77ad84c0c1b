"""What linear assignment is: small matrices, and properties. With TRITON_INTERPRET=1 the kernels are held to it."""

from __future__ import annotations

import pytest
import torch
from assignments import assert_best, counts, problems, unique
from codetr_kernels import linear_assignment
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import DEVICE
from torch import Tensor

pytestmark = pytest.mark.literal

INF, NAN = float("inf"), float("nan")


def solve(*rows: list[float], count: int | None = None, repeat: int = 1) -> tuple[list[int], int]:
    """Queries and status of one problem."""
    cost = torch.tensor([rows], device=DEVICE)
    assigned, status = linear_assignment(
        cost, torch.tensor([len(rows) if count is None else count], device=DEVICE), repeat=repeat, return_status=True
    )
    return assigned[0].tolist(), int(status)


def both(cost: Tensor, num_objects: Tensor, **settings: int) -> tuple[Tensor, Tensor]:
    assigned, status = linear_assignment(cost.to(DEVICE), num_objects.to(DEVICE), return_status=True, **settings)
    return assigned.cpu(), status.cpu()


def test_the_sum_is_least_not_each_cost() -> None:
    # Greedily the first object takes query 0 at 1, which leaves 10 to the second: 11 for 2 + 2.
    assert solve([1.0, 2.0, 9.0], [2.0, 10.0, 9.0]) == ([1, 0], 0)


def test_a_chain_of_objects_moves() -> None:
    assert solve([0.0, 1.0, 9.0, 9.0], [0.0, 9.0, 1.0, 9.0], [0.0, 2.0, 9.0, 9.0]) == ([1, 2, 0], 0)


def test_more_objects_than_queries_leave_the_dearest_out() -> None:
    assert solve([5.0], [3.0], [4.0], [3.5]) == ([-1, 0, -1, -1], 0)
    assert solve([1.0, 1.0], [2.0, 5.0], [9.0, 0.0]) == ([0, -1, 1], 0)
    assert solve([-7.0, 0.0], [-9.0, -5.0], [-8.0, -8.0]) == ([-1, 0, 1], 0)


def test_objects_that_do_not_count_are_not_matched_or_read() -> None:
    assert solve([1.0, 0.0, 3.0], [NAN, -INF, NAN], [-9.0, -9.0, -9.0], count=1) == ([1, -1, -1], 0)
    assert solve([1.0, 0.0], count=0) == ([-1], 0)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_counts_are_clamped(dtype: torch.dtype) -> None:
    cost = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]).expand(5, -1, -1)
    far = 2**40 + 1 if dtype == torch.int64 else 2**31 - 1
    assigned, _ = both(cost, torch.tensor([-1, -far, 1, 3, far], dtype=dtype))
    assert assigned.tolist() == [[-1, -1], [-1, -1], [1, -1], [1, 0], [1, 0]]


def test_copies_of_all_objects_follow_each_other() -> None:
    # Object 0 likes queries 0 and 1, object 1 likes queries 2 and 3; object 2 does not count.
    rows = [0.0, 0.5, 9.0, 9.0, 8.0], [9.0, 9.0, 0.0, 0.5, 8.0], [-1.0] * 5
    assigned, _ = solve(*rows, count=2, repeat=2)
    assert assigned[2::3] == [-1, -1]
    assert {assigned[0], assigned[3]} == {0, 1} and {assigned[1], assigned[4]} == {2, 3}
    assigned, _ = solve(*rows, count=2, repeat=3)
    assert sorted(assigned) == [-1, -1, -1, -1, 0, 1, 2, 3, 4]


def test_infinite_pairs_are_avoided_where_they_can_be() -> None:
    assert solve([0.0, INF], [0.0, 100.0]) == ([0, 1], 1)
    assert solve([0.0, NAN, 7.0], [0.0, INF, NAN]) == ([2, 0], 1)
    assert solve([0.0, INF], [0.0, 0.0]) == ([0, 1], 1)
    assert solve([3.0, 3.0], [3.0, NAN]) == ([1, 0], 1)


def test_no_number_of_finite_costs_outweighs_an_infinite_one() -> None:
    # One infinite and two at 0, or three at 1.
    assert solve([INF, 1.0, INF], [INF, 0.0, 1.0], [1.0, NAN, 0.0]) == ([1, 2, 0], 1)


def test_pairs_of_minus_infinity_are_taken_where_they_can_be() -> None:
    assert solve([0.0, -INF, 5.0], [0.0, -9.0, 100.0]) == ([1, 0], 1)


@pytest.mark.parametrize("value", [INF, -INF, NAN])
def test_nothing_finite_still_ends(value: float) -> None:
    assigned, status = solve([value] * 4, [value] * 4, [value] * 4)
    assert len({*assigned}) == 3 and {*assigned} <= {0, 1, 2, 3} and status == 1
    assigned, _ = solve([value] * 2, [1.0, 2.0], [value] * 2)
    assert {*assigned} == {-1, 0, 1}


def test_huge_finite_costs_are_clamped_without_a_status() -> None:
    assert solve([3e38, 1.0], [0.0, 5.0]) == ([1, 0], 0)
    assert solve([-3e38, 0.0], [0.0, 0.0], [0.0, -3e38]) == ([0, -1, 1], 0)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)])
@pytest.mark.parametrize("repeat", [1, 3])
def test_nothing_to_match(shape: tuple[int, int, int], repeat: int) -> None:
    assigned, status = both(torch.zeros(shape), torch.full((shape[0],), 9), repeat=repeat)
    assert torch.equal(assigned, torch.full((shape[0], shape[1] * repeat), -1))
    assert torch.equal(status, torch.zeros(shape[0], dtype=torch.int32))


def test_one_status_a_problem() -> None:
    cost = torch.rand(3, 2, 4)
    cost[1, 0, 2] = NAN
    cost[2, 1, 2] = NAN
    _, status = both(cost, torch.tensor([2, 2, 1]))
    assert status.tolist() == [0, 1, 0] and status.dtype == torch.int32


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_type(dtype: torch.dtype) -> None:
    cost = torch.randint(-100, 100, (2, 5, 8)).to(dtype)
    num = torch.tensor([5, 3])
    assert_best(both(cost, num)[0], cost, num, 1)


def test_float64_is_not_rounded_to_float32() -> None:
    cost = torch.tensor([[[1.0, 1.0 + 2**-40], [1.0 + 2**-41, 1.0 + 2**-42]]], dtype=torch.float64)
    assert both(cost, torch.tensor([2]))[0].tolist() == [[0, 1]]
    assert both(cost.flip(1), torch.tensor([2]))[0].tolist() == [[1, 0]]


def test_strided_costs() -> None:
    cost = torch.randn(3, 9, 4)
    num = torch.tensor([4, 3, 0])
    assert torch.equal(both(cost.mT, num)[0], unique(cost.mT, num))
    assert torch.equal(both(cost[:, ::2, 1:], num)[0], unique(cost[:, ::2, 1:], num))
    assert torch.equal(both(cost, torch.stack((num, num), 1)[:, 0])[0], unique(cost, num))


@pytest.mark.parametrize(("objects", "queries", "repeat"), [(4, 9, 1), (5, 3, 1), (2, 5, 2), (1, 4, 5)])
def test_totals_are_those_of_scipy(objects: int, queries: int, repeat: int) -> None:
    cost, num = problems(objects, queries), counts(objects)
    assigned, status = both(cost, num, repeat=repeat)
    assert_best(assigned, cost, num, repeat)
    assert (status == 0).all()


@settings(max_examples=10)
@given(st.data())
def test_any_matrix_of_small_integers(data: st.DataObject) -> None:
    objects, queries, repeat = (data.draw(st.integers(1, most)) for most in (4, 6, 3))
    row = st.lists(st.integers(-2, 2), min_size=queries, max_size=queries)
    cost = torch.tensor([data.draw(st.lists(row, min_size=objects, max_size=objects))], dtype=torch.float32)
    num = torch.tensor([data.draw(st.integers(0, objects))])
    assert_best(both(cost, num, repeat=repeat)[0], cost, num, repeat)


@pytest.mark.parametrize(
    ("cost", "num_objects", "repeat", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), 1, r"cost must be .* got torch.float32 \(2, 3\)"),
        (torch.zeros(2, 3, 4, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), 1, "got torch.int64"),
        (torch.zeros(2, 3, 4), torch.zeros(3, dtype=torch.int64), 1, r"int64 \(2,\), one .* got torch.int64 \(3,\)"),
        (torch.zeros(2, 3, 4), torch.zeros(2), 1, "num_objects must be int32 or int64"),
        (torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.int64, device="meta"), 1, "cost on cpu, num_objects on meta"),
        (torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.int64), 0, "repeat must be at least 1, got 0"),
    ],
)
def test_wrong_arguments(cost: Tensor, num_objects: Tensor, repeat: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_assignment(cost, num_objects, repeat=repeat)
