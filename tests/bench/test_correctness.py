"""The check lets rounding pass and notices mistakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from codetr_kernels.deform_attention import deform_attention_fused_reference, deform_attention_reference
from torch import Tensor

from codetr.bench.candidates import Candidate, Op, whole_of
from codetr.bench.correctness import NAMES, Check, Truth, check, find_truth
from codetr.bench.problems import Inputs, Problem, make_inputs
from codetr.bench.traffic import CHAINS, Chain

LEVELS = ((9, 13), (5, 7))
DTYPES = (torch.float32, torch.bfloat16)
REFERENCE = Candidate("reference", deform_attention_reference, deform_attention_fused_reference)


def inputs_of(dtype: torch.dtype, queries: int | None = None) -> Inputs:
    return make_inputs(Problem("tiny", LEVELS, 2, queries, dtype, heads=2, channels=8), torch.device("cpu"))


def wrong(change: Callable[..., Tensor]) -> Candidate:
    """The reference, with its arguments changed before."""

    def op(value: Tensor, shapes: tuple[tuple[int, int], ...], locations: Tensor, weights: Tensor) -> Tensor:
        return change(deform_attention_reference, value, shapes, locations, weights)

    return Candidate("wrong", op, whole_of(op))


def gradient_of(tensor: Tensor, factor: float) -> Tensor:
    """The same numbers, whose gradient is `factor` times what it was."""
    return tensor.detach() + factor * (tensor - tensor.detach())


def faulty(result: Check) -> set[str]:
    return {fault.partition(":")[0] for fault in result.faults}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("queries", [None, 11])
def test_rounding_passes(dtype: torch.dtype, chain: Chain, queries: int | None) -> None:
    inputs = inputs_of(dtype, queries)
    result = check(REFERENCE, inputs, chain, find_truth(inputs, chain))
    assert result.faults == []
    assert set(result.errors) == set(NAMES[chain])
    assert all(error > 0 for error in result.errors.values())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chain", CHAINS)
def test_a_shift_of_a_twentieth_of_a_cell_is_noticed(dtype: torch.dtype, chain: Chain) -> None:
    inputs = inputs_of(dtype)
    shifted = wrong(lambda op, value, shapes, locations, weights: op(value, shapes, locations + 0.05 / 13, weights))
    result = check(shifted, inputs, chain, find_truth(inputs, chain))
    assert {"output", "value"} <= faulty(result)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["value", "locations", "weights"])
def test_a_gradient_a_tenth_too_large_is_noticed_alone(dtype: torch.dtype, name: str) -> None:
    inputs = inputs_of(dtype)

    def change(op: Op, value: Tensor, shapes: tuple[tuple[int, int], ...], *rest: Tensor) -> Tensor:
        tensors = dict(zip(("value", "locations", "weights"), (value, *rest), strict=True))
        tensors[name] = gradient_of(tensors[name], 1.1)
        return op(tensors["value"], shapes, tensors["locations"], tensors["weights"])

    assert faulty(check(wrong(change), inputs, "op", find_truth(inputs, "op"))) == {name}


def test_unread_padding_is_noticed() -> None:
    inputs = inputs_of(torch.float32)

    def whole(value: Tensor, *rest: object) -> Tensor:
        return deform_attention_fused_reference(value, *rest[:-1])  # type: ignore[arg-type]

    result = check(replace(REFERENCE, whole=whole), inputs, "whole", find_truth(inputs, "whole"))
    assert {"output", "value"} <= faulty(result)


def test_what_is_no_number_is_a_fault() -> None:
    assert Check({"output": float("nan")}, {"output": 1.0}).faults == ["output: error nan, limit 1.0e+00"]
    assert Check({"output": 0.5}, {"output": 1.0}).faults == []


def test_points_on_a_line_between_cells_have_no_gradient_of_locations_to_compare() -> None:
    inputs = inputs_of(torch.float32)
    # The first point of the first query lies on its cell's centre, where the slope changes.
    inputs.offsets[0, 0, 0, 0, 0] = 0
    truth: Truth = find_truth(inputs, "op")
    counts = truth.counts["locations"]
    assert counts is not None
    assert not counts[0, 0, 0, 0, 0].any()
    assert counts.float().mean() > 0.99
    assert truth.counts["weights"] is None
