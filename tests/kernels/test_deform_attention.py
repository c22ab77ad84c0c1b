"""Multi-scale deformable attention against literal values and a loop over single samples.

The tests marked `literal` also run through the kernels, in the interpreter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from codetr_kernels import deform_attention
from torch import Tensor

Shapes = Sequence[tuple[int, int]]

# One head of one channel: a level [[1, 2], [3, 4]] and a level [[10]].
SHAPES = ((2, 2), (1, 1))
VALUE = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0]).view(1, 5, 1, 1)
ODD_SHAPES = ((3, 5), (1, 1), (2, 7))


def at(level: int, x: float, y: float) -> float:
    """One query with one point of weight 1 on one of the two literal levels."""
    locations = torch.full((1, 1, 1, 2, 1, 2), 0.5)
    locations[..., level, 0, :] = torch.tensor([x, y])
    weights = torch.zeros(1, 1, 1, 2, 1)
    weights[..., level, 0] = 1
    return deform_attention(VALUE, SHAPES, locations, weights).item()


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (0.25, 0.25, 1.0),  # centre of the first cell
        (0.75, 0.25, 2.0),  # x runs along the row
        (0.25, 0.75, 3.0),
        (0.75, 0.75, 4.0),
        (0.5, 0.5, 2.5),  # between all four
        (0.5, 0.25, 1.5),
        (0.375, 0.25, 1.25),
        (0.0, 0.25, 0.5),  # left edge of the level: half of the first cell, half of nothing
        (0.0, 0.0, 0.25),
        (1.0, 1.0, 1.0),
        (-0.25, 0.25, 0.0),  # a whole cell outside
        (0.25, 1.25, 0.0),
        (-3.0, 9.0, 0.0),
    ],
)
@pytest.mark.literal
def test_a_sample_of_the_finer_level(x: float, y: float, expected: float) -> None:
    assert at(0, x, y) == expected  # fractions of powers of two: exact in float32


@pytest.mark.parametrize(
    ("x", "y", "expected"), [(0.5, 0.5, 10.0), (0.0, 0.5, 5.0), (1.0, 0.0, 2.5), (1.5, 0.5, 0.0), (0.5, -0.25, 2.5)]
)
@pytest.mark.literal
def test_a_sample_of_the_level_of_one_cell(x: float, y: float, expected: float) -> None:
    assert at(1, x, y) == expected


@pytest.mark.literal
def test_samples_are_weighted_over_levels_and_points() -> None:
    # Level 0 reads 2 and 2.5, level 1 reads 10 and 5; the weights need not sum to 1.
    locations = torch.tensor([[[0.75, 0.25], [0.5, 0.5]], [[0.5, 0.5], [0.0, 0.5]]]).view(1, 1, 1, 2, 2, 2)
    weights = torch.tensor([[1.0, 2.0], [0.5, -3.0]]).view(1, 1, 1, 2, 2)
    assert deform_attention(VALUE, SHAPES, locations, weights).tolist() == [[[2.0 + 5.0 + 5.0 - 15.0]]]


@pytest.mark.literal
def test_heads_and_batch_do_not_mix_and_lie_one_after_the_other() -> None:
    # One cell, so that every sample at its centre reads the cell itself: B = 2, H = 2, D = 3.
    value = torch.arange(12.0).view(2, 1, 2, 3)
    locations, weights = (
        torch.full((2, 1, 2, 1, 1, 2), 0.5),
        torch.tensor([1.0, 10.0]).expand(2, 1, 2).view(2, 1, 2, 1, 1),
    )
    assert deform_attention(value, [(1, 1)], locations, weights).tolist() == [
        [[0, 1, 2, 30, 40, 50]],
        [[6, 7, 8, 90, 100, 110]],
    ]


def odd_problem(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """B = 2, H = 3, D = 5, Q = 4, L = 3, P = 3, a good share of the samples outside."""
    value = torch.randn(2, 15 + 1 + 14, 3, 5, dtype=dtype)
    locations = torch.rand(2, 4, 3, 3, 3, 2, dtype=dtype) * 1.6 - 0.3
    return value, locations, torch.randn(2, 4, 3, 3, 3, dtype=dtype)


def loop(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The definition in plain numbers: batch, query, head, and each sample's four cells."""
    batch, queries, heads, levels, points, _ = locations.shape
    channels = value.shape[-1]
    starts = [sum(h * w for h, w in shapes[:level]) for level in range(levels)]
    output = torch.zeros(batch, queries, heads, channels, dtype=torch.float64)
    for b, q, h in torch.cartesian_prod(*map(torch.arange, (batch, queries, heads))).tolist():
        for level, point in torch.cartesian_prod(torch.arange(levels), torch.arange(points)).tolist():
            height, width = shapes[level]
            x, y = locations[b, q, h, level, point].tolist()
            x, y = x * width - 0.5, y * height - 0.5
            for row in (math.floor(y), math.floor(y) + 1):
                for column in (math.floor(x), math.floor(x) + 1):
                    if 0 <= row < height and 0 <= column < width:
                        share = (1 - abs(y - row)) * (1 - abs(x - column)) * weights[b, q, h, level, point].item()
                        output[b, q, h] += share * value[b, starts[level] + row * width + column, h]
    return output.flatten(2)


@pytest.mark.literal
def test_equals_the_loop() -> None:
    value, locations, weights = odd_problem()
    out = deform_attention(value, ODD_SHAPES, locations, weights)
    assert out.dtype == torch.float64
    # Rounding of float64 over 9 samples of size 1.
    torch.testing.assert_close(out, loop(value, ODD_SHAPES, locations, weights), atol=1e-13, rtol=0)


@pytest.mark.literal
def test_float32_equals_the_loop() -> None:
    value, locations, weights = odd_problem(torch.float32)
    out = deform_attention(value, ODD_SHAPES, locations, weights)
    assert out.dtype == torch.float32
    expected = loop(value.double(), ODD_SHAPES, locations.double(), weights.double())
    # A location in float32 is off by 1e-7 of a level of 7 cells, values and weights reach 3, nine samples.
    torch.testing.assert_close(out.double(), expected, atol=3e-5, rtol=0)


def test_gradients() -> None:
    # Places between cell centres, a quarter to three quarters of a cell from the kinks; some a cell's part outside.
    shapes = ((2, 3), (1, 2))
    value = torch.randn(1, 8, 2, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(1, 2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    extent = torch.tensor([[3.0, 2.0], [2.0, 1.0]], dtype=torch.float64).view(1, 1, 1, 2, 1, 2)
    low = (torch.rand(1, 2, 2, 2, 2, 2, dtype=torch.float64) * (extent + 1)).floor() - 1
    cells = low + 0.25 + 0.5 * torch.rand(low.shape, dtype=torch.float64)
    locations = ((cells + 0.5) / extent).requires_grad_()
    assert ((low < 0).any() and (low >= 0).any()).item()

    def function(v: Tensor, p: Tensor, w: Tensor) -> Tensor:
        return deform_attention(v, shapes, p, w)

    assert torch.autograd.gradcheck(function, (value, locations, weights))
    out = function(value, locations, weights)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(out.square().sum(), (value, locations, weights)))


def test_inputs_need_not_be_contiguous() -> None:
    value, locations, weights = odd_problem()

    def scattered(x: Tensor) -> Tensor:
        return x.transpose(1, -1).contiguous().transpose(1, -1)

    assert not scattered(value).is_contiguous()
    given = [scattered(value), scattered(locations), scattered(weights)]
    expected = deform_attention(value, ODD_SHAPES, locations, weights)
    assert torch.equal(deform_attention(given[0], ODD_SHAPES, given[1], given[2]), expected)


@pytest.mark.literal
def test_no_queries() -> None:
    value, locations, weights = odd_problem()
    value.requires_grad_()
    out = deform_attention(value, ODD_SHAPES, locations[:, :0], weights[:, :0])
    assert out.shape == (2, 0, 15)
    (grad,) = torch.autograd.grad(out.sum(), value)
    assert torch.equal(grad, torch.zeros_like(value))


def test_half_precision_values_are_sampled_in_single_precision() -> None:
    value, locations, weights = odd_problem(torch.float32)
    out = deform_attention(value.bfloat16(), ODD_SHAPES, locations, weights)
    assert out.dtype == torch.bfloat16
    # Rounded once, at the end.
    expected = deform_attention(value.bfloat16().float(), ODD_SHAPES, locations, weights)
    assert torch.equal(out, expected.bfloat16())


def test_locations_keep_their_precision_beside_half_precision_values() -> None:
    # A row of 167 cells that hold their index, which bfloat16 holds exactly; each query reads one cell at its centre.
    index = torch.arange(167.0)
    centres = torch.stack([(index + 0.5) / 167, torch.full_like(index, 0.5)], dim=-1).view(1, 167, 1, 1, 1, 2)
    value, weights = index.bfloat16().view(1, 167, 1, 1), torch.ones(1, 167, 1, 1, 1)
    assert deform_attention(value, [(1, 167)], centres, weights).flatten().tolist() == index.tolist()
    rounded = deform_attention(value, [(1, 167)], centres.bfloat16(), weights)
    assert rounded.flatten().tolist() != index.tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": torch.zeros(1, 5, 1)}, r"value must be \(B, S, H, D\), got \(1, 5, 1\)"),
        ({"locations": torch.zeros(1, 3, 1, 2, 4)}, r"locations must be \(B, Q, H, L, P, 2\), got \(1, 3, 1, 2, 4\)"),
        ({"locations": torch.zeros(1, 3, 1, 2, 4, 3)}, r"locations must be .*, got \(1, 3, 1, 2, 4, 3\)"),
        ({"weights": torch.zeros(1, 3, 1, 2, 5)}, r"weights must be \(1, 3, 1, 2, 4\) as locations, got .*2, 5\)"),
        ({"value": torch.zeros(2, 5, 1, 1)}, "value has batch 2 and 1 heads, locations has batch 1 and 1 heads"),
        ({"value": torch.zeros(1, 5, 3, 1)}, "value has batch 1 and 3 heads, locations has batch 1 and 1 heads"),
        ({"shapes": ((5, 1),)}, "1 level shapes, but locations has 2 levels"),
        ({"shapes": ((5, 1), (0, 2))}, r"every level needs a positive height and width, got \(\(5, 1\), \(0, 2\)\)"),
        ({"shapes": ((-2, -2), (1, 1))}, "every level needs a positive height and width"),
        ({"shapes": ((2, 2), (1, 2))}, r"level shapes \(\(2, 2\), \(1, 2\)\) cover 6 tokens, value has 5"),
        ({"value": torch.zeros(1, 5, 1, 1, dtype=torch.int64)}, "floating-point tensors needed, got torch.int64"),
        (
            {"locations": torch.zeros(1, 3, 1, 2, 4, 2, dtype=torch.int32)},
            "floating-point tensors needed, got torch.float32, torch.int32, torch.float32",
        ),
        (
            {"weights": torch.zeros(1, 3, 1, 2, 4, dtype=torch.bool)},
            "floating-point tensors needed, got torch.float32, torch.float32, torch.bool",
        ),
        ({"weights": torch.zeros(1, 3, 1, 2, 4, device="meta")}, "one device needed, got cpu, cpu, meta"),
        ({"value": torch.zeros(1, 5, 1, 1, device="meta")}, "one device needed, got meta, cpu, cpu"),
    ],
)
@pytest.mark.literal
def test_what_does_not_fit_is_an_error(changes: dict[str, object], message: str) -> None:
    arguments = {
        "value": VALUE,
        "shapes": SHAPES,
        "locations": torch.zeros(1, 3, 1, 2, 4, 2),
        "weights": torch.zeros(1, 3, 1, 2, 4),
    }
    assert deform_attention(**arguments).shape == (1, 3, 1)
    with pytest.raises(ValueError, match=message):
        deform_attention(**{**arguments, **changes})


def test_within_transforms_of_functions() -> None:
    value, locations, weights = odd_problem()

    def total(v: Tensor) -> Tensor:
        return deform_attention(v, ODD_SHAPES, locations, weights).square().sum()

    expected = torch.autograd.grad(total(value.requires_grad_()), value)[0]
    # Sums of 9 samples in another order, in float64.
    torch.testing.assert_close(torch.func.grad(total)(value.detach()), expected, rtol=1e-12, atol=1e-12)
