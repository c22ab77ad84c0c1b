"""The fast form for the CPU: literal values, then the reference, its gradients and theirs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from codetr_kernels.deform_attention import cpu
from codetr_kernels.deform_attention.cpu import deform_attention_cpu, deform_attention_fused_cpu
from codetr_kernels.deform_attention.reference import deform_attention_fused_reference, deform_attention_reference
from torch import Tensor

# One head of one channel: a level [[1, 2], [3, 4]] and a level [[10]].
SHAPES = [(2, 2), (1, 1)]
VALUE = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0]).view(1, 5, 1, 1)
ODD_SHAPES = [(3, 5), (1, 1), (2, 7)]


def at(level: int, x: float, y: float, value: Tensor = VALUE) -> Tensor:
    """One query with one point of weight 1 on one of the two literal levels."""
    locations = torch.full((1, 1, 1, 2, 1, 2), 0.5)
    locations[..., level, 0, :] = torch.tensor([x, y])
    weights = torch.zeros(1, 1, 1, 2, 1)
    weights[..., level, 0] = 1
    return deform_attention_cpu(value, SHAPES, locations, weights)


@pytest.mark.parametrize(
    ("level", "x", "y", "expected"),
    [
        (0, 0.25, 0.25, 1.0),  # centre of the first cell
        (0, 0.75, 0.25, 2.0),  # x runs along the row
        (0, 0.25, 0.75, 3.0),
        (0, 0.5, 0.5, 2.5),  # between all four
        (0, 0.375, 0.25, 1.25),
        (0, 0.0, 0.25, 0.5),  # left edge of the level: half of the first cell, half of nothing
        (0, 1.0, 1.0, 1.0),
        (0, 1.0, 0.0, 0.5),
        (0, -0.25, 0.25, 0.0),  # a whole cell outside
        (0, 1.25, 0.25, 0.0),
        (0, 0.25, -0.25, 0.0),
        (0, 0.25, 1.25, 0.0),
        (0, -3.0, 9.0, 0.0),
        (0, 3e38, -3e38, 0.0),
        (1, 0.5, 0.5, 10.0),
        (1, 1.0, 0.0, 2.5),
        (1, 1.5, 0.5, 0.0),
    ],
)
def test_a_sample(level: int, x: float, y: float, expected: float) -> None:
    assert at(level, x, y).item() == expected  # fractions of powers of two: exact in float32


def test_heads_and_batch_do_not_mix_and_lie_one_after_the_other() -> None:
    # One cell, so that every sample at its centre reads the cell itself: B = 2, H = 2, D = 3.
    value, locations = torch.arange(12.0).view(2, 1, 2, 3), torch.full((2, 1, 2, 1, 1, 2), 0.5)
    weights = torch.tensor([1.0, 10.0]).expand(2, 1, 2).view(2, 1, 2, 1, 1)
    assert deform_attention_cpu(value, [(1, 1)], locations, weights).tolist() == [
        [[0, 1, 2, 30, 40, 50]],
        [[6, 7, 8, 90, 100, 110]],
    ]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 7.0])
@pytest.mark.parametrize("axis", [0, 1])
def test_no_place_reads_zeros_and_has_no_gradient(number: float, axis: int) -> None:
    inputs = problem()
    expected = deform_attention_cpu(inputs[0], ODD_SHAPES, inputs[1], inputs[2].detach() * 0)
    assert expected.abs().max() == 0
    locations = inputs[1].detach().clone()
    locations[..., axis] = number
    locations.requires_grad_()
    output = deform_attention_cpu(inputs[0], ODD_SHAPES, locations, inputs[2])
    assert torch.equal(output, torch.zeros_like(output))
    for gradient in torch.autograd.grad(output.sum(), (inputs[0], locations, inputs[2])):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_an_infinite_cell_is_read_only_where_it_lies() -> None:
    value = torch.full((1, 5, 1, 1), math.inf)
    assert at(0, 2.0, 0.5, value).isnan().item()  # level 1 with weight 0 reads its own cell
    value[0, 4] = 0.0
    assert [at(0, x, y, value).item() for x, y in ((-1.0, 0.5), (2.0, 0.5), (0.5, -1.0), (math.nan, 0.5))] == [0.0] * 4


def problem(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """B = 2, H = 3, D = 5, Q = 4, L = 3, P = 3, a good share of the samples outside."""
    value = torch.randn(2, 15 + 1 + 14, 3, 5, dtype=dtype, requires_grad=True)
    locations = (torch.rand(2, 4, 3, 3, 3, 2, dtype=dtype) * 1.6 - 0.3).requires_grad_()
    return value, locations, torch.randn(2, 4, 3, 3, 3, dtype=dtype, requires_grad=True)


def results(function: Any, inputs: tuple[Tensor, ...], shapes: Any = ODD_SHAPES) -> tuple[Tensor, ...]:
    """The output, and the gradients of a function of it that is not symmetric."""
    output = function(inputs[0], shapes, *inputs[1:])
    return output, *torch.autograd.grad(output.sin().sum(), [tensor for tensor in inputs if tensor.requires_grad])


def assert_equal(inputs: tuple[Tensor, ...], shapes: Any = ODD_SHAPES) -> None:
    own, reference = (results(f, inputs, shapes) for f in (deform_attention_cpu, deform_attention_reference))
    for one, other in zip(own, reference, strict=True):
        assert one.dtype == other.dtype
        # Float64 sums of at most 9 x 8 x 7 terms below 100 in another order.
        torch.testing.assert_close(one, other, atol=1e-11, rtol=0)


def test_values_and_gradients_are_those_of_the_reference() -> None:
    assert_equal(problem())


@pytest.mark.parametrize("needed", [(True, False, False), (False, True, False), (False, False, True)])
def test_each_gradient_alone(needed: tuple[bool, ...]) -> None:
    inputs = tuple(tensor.detach().requires_grad_(need) for tensor, need in zip(problem(), needed, strict=True))
    assert_equal(inputs)


def test_shapes_in_a_tensor() -> None:
    assert_equal(problem(), torch.tensor(ODD_SHAPES))


def test_indices_of_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "LARGEST", 0)
    assert_equal(problem())


def test_inputs_need_not_be_contiguous() -> None:
    inputs = tuple(tensor.transpose(1, -1).contiguous().transpose(1, -1) for tensor in problem())
    assert not any(tensor.is_contiguous() for tensor in inputs)
    assert_equal(tuple(tensor.detach().requires_grad_() for tensor in inputs))


def test_many_queries_on_the_same_cells() -> None:
    # 500 x 4 samples on four cells: every sum of the value's gradient has hundreds of terms.
    value = torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    locations = torch.rand(1, 500, 2, 1, 4, 2, dtype=torch.float64, requires_grad=True)
    assert_equal((value, locations, torch.rand(1, 500, 2, 1, 4, dtype=torch.float64, requires_grad=True)), [(2, 2)])


def test_no_queries() -> None:
    value, locations, weights = problem()
    output = deform_attention_cpu(value, ODD_SHAPES, locations[:, :0], weights[:, :0])
    assert output.shape == (2, 0, 15)
    assert torch.equal(torch.autograd.grad(output.sum(), value)[0], torch.zeros_like(value))


def test_first_and_second_derivatives_by_differences() -> None:
    # Places between cell centres, a quarter to three quarters of a cell from the kinks; some a cell's part outside.
    shapes = [(2, 3), (1, 2)]
    value = torch.randn(1, 8, 2, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(1, 2, 2, 2, 1, dtype=torch.float64, requires_grad=True)
    extent = torch.tensor([[3.0, 2.0], [2.0, 1.0]], dtype=torch.float64).view(1, 1, 1, 2, 1, 2)
    low = (torch.rand(1, 2, 2, 2, 1, 2, dtype=torch.float64) * (extent + 1)).floor() - 1
    locations = ((low + 0.75 + 0.5 * torch.rand(low.shape, dtype=torch.float64)) / extent).requires_grad_()

    def function(v: Tensor, p: Tensor, w: Tensor) -> Tensor:
        return deform_attention_cpu(v, shapes, p, w)

    assert torch.autograd.gradcheck(function, (value, locations, weights))
    assert torch.autograd.gradgradcheck(function, (value, locations, weights))


def test_second_derivatives_of_some_inputs() -> None:
    value, locations, weights = problem()
    second = []
    for function in (deform_attention_cpu, deform_attention_reference):
        output = function(value, ODD_SHAPES, locations, weights.detach())
        first = torch.autograd.grad(output.square().sum(), (value, locations), create_graph=True)
        second.append(torch.autograd.grad(sum(gradient.square().sum() for gradient in first), (value, locations)))
    for one, other in zip(*second, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=1e-9)  # the same sums, of float64, up to 1e6 large


def test_single_precision() -> None:
    inputs = tuple(tensor.detach().float() for tensor in problem())
    exact = deform_attention_reference(inputs[0].double(), ODD_SHAPES, inputs[1].double(), inputs[2].double())
    # A location in float32 is off by 1e-7 of a level of 7 cells, values and weights reach 3, nine samples.
    torch.testing.assert_close(
        deform_attention_cpu(inputs[0], ODD_SHAPES, *inputs[1:]).double(), exact, atol=3e-5, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_sampled_in_single_precision(dtype: torch.dtype) -> None:
    value, locations, weights = (tensor.detach().float() for tensor in problem())
    value = value.to(dtype).requires_grad_()
    output = deform_attention_cpu(value, ODD_SHAPES, locations, weights)
    assert output.dtype == dtype
    # Rounded once, at the end.
    assert torch.equal(output, deform_attention_cpu(value.float(), ODD_SHAPES, locations, weights).to(dtype))
    assert torch.autograd.grad(output.sum(), value)[0].dtype == dtype


def test_float64_locations_beside_float32_values() -> None:
    value, locations, weights = problem()
    output = deform_attention_cpu(value.float(), ODD_SHAPES, locations, weights)
    expected = deform_attention_cpu(value.float().double(), ODD_SHAPES, locations, weights)
    assert torch.equal(output, expected.float())


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("padded", [False, True])
def test_fused_is_that_of_the_reference(width: int, padded: bool) -> None:
    value, offsets, weights = problem()
    references = torch.rand(2, 4, 3, width, dtype=torch.float64, requires_grad=True)
    padding = torch.rand(2, 30) < 0.3 if padded else None
    inputs = (value, references, offsets, weights.detach().flatten(3).requires_grad_())
    own, expected = (
        results(lambda v, s, r, o, g, f=function: f(v, s, r, o, g, padding), inputs)
        for function in (deform_attention_fused_cpu, deform_attention_fused_reference)
    )
    for one, other in zip(own, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=0)  # as above
    if padding is not None:
        assert own[1][padding].abs().max() == 0


def test_a_compiled_graph_holds_the_reference() -> None:
    torch.compiler.reset()
    inputs = problem()
    compiled = torch.compile(
        lambda *given: deform_attention_cpu(given[0], ODD_SHAPES, *given[1:]), backend="eager", fullgraph=True
    )
    assert torch.equal(compiled(*inputs), deform_attention_reference(inputs[0], ODD_SHAPES, *inputs[1:]))
