"""The self-test of the kernels: every public operation is tried, and a wrong or broken one is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import codetr_kernels
import pytest
import torch
from torch import Tensor

from codetr.doctor import kernel_cases
from codetr.doctor.kernel_cases import CASES, EPSILON, Result
from codetr.doctor.kernels import check_device, check_kernels, compared, judge

CPU = torch.device("cpu")
OPERATIONS = sorted(
    name for name in codetr_kernels.__all__ if name.islower() and not name.endswith(("_reference", "_backend"))
)


def test_a_decision_must_be_equal_and_a_number_near() -> None:
    assert compared(Result("x", torch.tensor([1, 2]), torch.tensor([1, 2]))) is None
    assert compared(Result("x", torch.tensor([1, 2]), torch.tensor([1, 3]))) == "1 of 2 decisions differ"
    one = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert compared(Result("x", one + 3 * EPSILON, one, limit=4)) is None
    assert compared(Result("x", one + 5 * EPSILON, one, limit=4)) == "error 6.0e-07, limit 4.8e-07"
    assert compared(Result("x", 100 * one + 300 * EPSILON, 100 * one, limit=4)) is None
    assert compared(Result("x", one * torch.nan, one, limit=4)) == "error nan, limit 4.8e-07"
    assert compared(Result("x", one[:1], one, limit=4)) == "has the shape (1,), not (2,)"


@pytest.mark.parametrize("name", CASES)
def test_cases_have_something_to_decide(name: str) -> None:
    """Numbers that are not all zero, and decisions of more than one kind where there are many."""
    results = list(CASES[name](CPU))
    assert results
    for result in results:
        assert compared(result) is None, result.name
        assert result.expected.numel() > 0
        if result.limit:
            assert result.expected.dtype == torch.float64
            assert result.expected.abs().max() > 1e-3, result.name
            assert result.limit * EPSILON < 1e-4
        elif not result.name.startswith(("distinct", "total")):
            assert result.expected.unique().numel() > 1, result.name


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_that_is_wrong_is_told(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each public operation in turn is off by a little, or decides otherwise."""
    right: Callable[..., Any] = getattr(codetr_kernels, operation)

    def wrong(*arguments: Any, **settings: Any) -> Any:
        results = right(*arguments, **settings)
        return tuple(map(spoiled, results)) if isinstance(results, tuple) else spoiled(results)

    monkeypatch.setattr(codetr_kernels, operation, wrong)
    row = check_device(CPU, CASES)
    assert row.verdict == "failure"
    assert row.found.startswith("differ from the reference: ")
    assert row.fix


def spoiled(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point():
        return tensor * (1 + 1e-3)
    return ~tensor if tensor.dtype == torch.bool else tensor.flip(-1)


def test_a_gradient_that_is_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    right = codetr_kernels.deform_attention

    def wrong(value: Tensor, *rest: Any) -> Tensor:
        output = right(value, *rest)
        return output + 1e-3 * (value.sum() - value.sum().detach())

    monkeypatch.setattr(codetr_kernels, "deform_attention", wrong)
    row = check_device(CPU, {"deform_attention": CASES["deform_attention"]})
    assert row.found.startswith("differ from the reference: deform_attention: output, gradient of value: error ")


def test_an_exception_is_a_row_and_the_other_cases_go_on() -> None:
    def broken(device: torch.device) -> Iterator[Result]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
        yield

    def wrong(device: torch.device) -> Iterator[Result]:
        yield Result("index", torch.tensor([1]), torch.tensor([2]))

    row = check_device(CPU, {"a": broken, "b": wrong})
    assert (row.check, row.verdict) == ("kernels cpu", "failure")
    assert row.found == (
        "differ from the reference: a: RuntimeError: CUDA error: an illegal memory access was encountered; "
        "b: index: 1 of 1 decisions differ"
    )
    assert "raise RuntimeError" in row.detail


def test_a_few_problems_are_shown_and_all_are_in_the_detail() -> None:
    row = judge("cuda:0", "triton", [f"p{i}" for i in range(5)], of=["x"], seconds=1, details=["trace"])
    assert row.found == "differ from the reference: p0; p1; p2; and 2 more"
    assert row.detail == "p3\np4\ntrace"
    assert row.fix == "rm -rf ~/.triton/cache && codetr --debug doctor"


def test_what_torchvision_broke_is_mended_there() -> None:
    problem = "nms: RuntimeError: operator torchvision::nms does not exist"
    row = judge("cpu", "reference", [problem], of=["nms"], seconds=1, details=[])
    assert row.fix.endswith("--force-reinstall torch torchvision")
    row = judge("cpu", "reference", [problem, "boxes: wrong"], of=["nms"], seconds=1, details=[])
    assert row.fix == "codetr --debug doctor"


def test_every_device_has_a_row() -> None:
    rows = check_kernels()
    assert rows[0].check == "kernels cpu"
    assert len(rows) == 1 + torch.cuda.device_count()
    assert {row.verdict for row in rows} == {"ok"}, rows
    assert all(name in rows[0].found for name in CASES)


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_the_kernels_of_a_gpu(name: str) -> None:
    assert [result.name for result in kernel_cases.CASES[name](torch.device("cuda")) if compared(result)] == []
