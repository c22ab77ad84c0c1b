"""The calls of mmcv: literal values, then the reference."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest
import torch
from codetr_kernels import deform_attention_reference
from codetr_kernels.mmcv import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch
from torch import Tensor

apply = MultiScaleDeformableAttnFunction.apply

# A level [[1, 2], [3, 4]] and a level [[10]], one head of one channel.
VALUE = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0]).view(1, 5, 1, 1)
SHAPES, STARTS = torch.tensor([[2, 2], [1, 1]]), torch.tensor([0, 4])


def sample(x: float, y: float) -> tuple[Tensor, Tensor]:
    """One query at (x, y) of the first level with weight 1, and at the second's centre with weight 0.5."""
    locations = torch.tensor([[x, y], [0.5, 0.5]]).view(1, 1, 1, 2, 1, 2)
    return locations, torch.tensor([1.0, 0.5]).view(1, 1, 1, 2, 1)


@pytest.mark.parametrize(
    ("x", "y", "expected"), [(0.25, 0.25, 6.0), (0.75, 0.25, 7.0), (0.25, 0.75, 8.0), (0.5, 0.5, 7.5), (-3.0, 9.0, 5.0)]
)
def test_literal_values(x: float, y: float, expected: float) -> None:
    locations, weights = sample(x, y)
    # Fractions of powers of two: exact in float32.
    assert apply(VALUE, SHAPES, STARTS, locations, weights, 64).tolist() == [[[expected]]]
    assert multi_scale_deformable_attn_pytorch(VALUE, SHAPES, locations, weights).tolist() == [[[expected]]]


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """B = 2, H = 3, D = 5, Q = 4, L = 3, P = 2 in float64, a good share of the samples outside."""
    value = torch.randn(2, 15 + 1 + 14, 3, 5, dtype=torch.float64, requires_grad=True)
    locations = (torch.rand(2, 4, 3, 3, 2, 2, dtype=torch.float64) * 1.6 - 0.3).requires_grad_()
    weights = torch.randn(2, 4, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    return value, torch.tensor([[3, 5], [1, 1], [2, 7]]), torch.tensor([0, 15, 16]), locations, weights


@pytest.mark.parametrize("step", [1, 3, 64])
def test_values_and_gradients_are_those_of_the_reference(step: int) -> None:
    value, shapes, starts, locations, weights = problem()
    inputs = (value, locations, weights)
    expected = deform_attention_reference(value, [(3, 5), (1, 1), (2, 7)], locations, weights)
    gradients = torch.autograd.grad(expected.sin().sum(), inputs)
    for output in (
        apply(value, shapes, starts, locations, weights, step),  # also steps that do not divide the batch
        multi_scale_deformable_attn_pytorch(value, shapes, locations, weights),
        multi_scale_deformable_attn_pytorch(value, [(3, 5), (1, 1), (2, 7)], locations, weights),
    ):
        assert output.shape == (2, 4, 15) and output.is_contiguous()
        found = torch.autograd.grad(output.sin().sum(), inputs)
        for own, other in zip((output, *found), (expected, *gradients), strict=True):
            # Float64 sums of at most 6 x 8 x 7 terms below 100 in another order.
            torch.testing.assert_close(own, other, atol=1e-11, rtol=0)


def test_half_precision_beside_single_precision() -> None:
    value, shapes, starts, locations, weights = (
        tensor.float() if tensor.is_floating_point() else tensor for tensor in problem()
    )
    out = apply(value.bfloat16(), shapes, starts, locations, weights, 64)
    assert out.dtype == torch.bfloat16
    # Rounded once, at the end.
    expected = deform_attention_reference(value.bfloat16().float(), shapes, locations, weights).bfloat16()
    torch.testing.assert_close(out, expected, atol=0, rtol=2**-8)


def test_indices_on_an_accelerator_are_not_read() -> None:
    # A meta tensor has no numbers: reading them would raise.
    locations, weights = sample(0.25, 0.25)
    starts = torch.empty(2, device="meta", dtype=torch.int64)
    assert apply(VALUE, SHAPES, starts, locations, weights, 64).tolist() == [[[6.0]]]


@pytest.mark.parametrize(
    ("shapes", "starts", "message"),
    [
        (
            SHAPES,
            torch.tensor([0, 1]),
            r"level_start_index must be \[0, 4\] for .*, got \[0, 1\]: levels lie one after",
        ),
        (SHAPES, torch.tensor([0, 4, 5]), r"level_start_index must be \(2,\), one a level, got \(3,\)"),
        (SHAPES.float(), STARTS, r"shapes must be int \(L, 2\), height then width, got torch.float32"),
        (torch.tensor([[2, 2], [1, 2]]), STARTS, "cover 6 tokens, value has 5"),
    ],
)
def test_what_does_not_fit_is_an_error(shapes: Tensor, starts: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply(VALUE, shapes, starts, *sample(0.5, 0.5), 64)


def test_argument_names_are_those_of_mmcv() -> None:
    # Written down from mmcv/ops/multi_scale_deform_attn.py.
    names = ["value", "value_spatial_shapes", "value_level_start_index", "sampling_locations", "attention_weights"]
    assert list(inspect.signature(apply).parameters) == [*names, "im2col_step"]
    names.remove("value_level_start_index")
    assert list(inspect.signature(multi_scale_deformable_attn_pytorch).parameters) == names


@pytest.mark.parametrize("family", ["mask2former", "oneformer"])
def test_the_function_of_segmentation_models(family: str) -> None:
    pytest.importorskip("transformers")
    module: Any = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    theirs = module.multi_scale_deformable_attention
    assert list(inspect.signature(theirs).parameters) == list(
        inspect.signature(multi_scale_deformable_attn_pytorch).parameters
    )
    value, shapes, _, locations, weights = problem()
    expected = theirs(value, [tuple(shape) for shape in shapes.tolist()], locations, weights)
    found = multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)  # rounding of float64, 6 terms below 10
