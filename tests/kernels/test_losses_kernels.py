"""The kernels of class losses against the reference in float64: types, sizes, layouts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from codetr_kernels import distribution_focal_loss, quality_focal_loss, sigmoid_focal_loss_rows
from codetr_kernels.losses import (
    distribution_focal_loss_reference,
    quality_focal_loss_reference,
    sigmoid_focal_loss_rows_reference,
)
from samples import DEVICE, EPSILON
from torch import Tensor

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("garbage")]

FORMS = ("focal", "focal 1.5", "quality", "quality 1.5", "distribution")
Loss = Callable[[Tensor], Tensor]


def problem(form: str, rows: int, columns: int, *, weighted: bool) -> tuple[Loss, Loss]:
    """A loss by its kernel and by its reference, as functions of the logits. Targets are rounded to float32."""
    target = torch.randint(0, columns + 1, (rows,)).to(DEVICE)
    quality = torch.rand(rows).to(DEVICE)
    weights = torch.where(torch.rand(rows) < 0.2, 0.0, torch.rand(rows)).to(DEVICE) if weighted else None
    if form == "distribution":
        place = quality * (columns - 1)
        return (
            lambda logits: distribution_focal_loss(logits, place, weights),
            lambda logits: distribution_focal_loss_reference(logits, place, weights),
        )
    exponent = 1.5 if form.endswith("1.5") else 2.0
    if form.startswith("quality"):
        return (
            lambda logits: quality_focal_loss(logits, target, quality, weights, beta=exponent),
            lambda logits: quality_focal_loss_reference(logits, target, quality, weights, beta=exponent),
        )
    return (
        lambda logits: sigmoid_focal_loss_rows(logits, target, weights, alpha=0.375, gamma=exponent),
        lambda logits: sigmoid_focal_loss_rows_reference(logits, target, weights, alpha=0.375, gamma=exponent),
    )


def assert_equal(ours: Loss, reference: Loss, logits: Tensor) -> None:
    """Within rounding of the arithmetic, and of the gradient to the type of the logits.

    A logit of up to 12 has a loss and slope whose relative error is some ten roundings; sums of K entries are made of
    partial sums, and every entry of a row weighs at most 1.
    """
    exact = logits.detach().double().requires_grad_()
    logits = logits.detach().requires_grad_()
    found, wanted = ours(logits), reference(exact)
    grad = torch.linspace(-1, 2, max(1, found.numel()), device=DEVICE)[: found.numel()].view(found.shape)
    (by_logits,) = torch.autograd.grad(found, logits, grad.to(found.dtype))
    (wanted_by_logits,) = torch.autograd.grad(wanted, exact, grad.double())
    arithmetic = EPSILON[torch.promote_types(logits.dtype, torch.float32)]
    torch.testing.assert_close(found.double(), wanted, rtol=16 * arithmetic, atol=16 * arithmetic)
    assert by_logits.dtype == logits.dtype
    torch.testing.assert_close(
        by_logits.double(), wanted_by_logits, rtol=EPSILON[logits.dtype] + 16 * arithmetic, atol=32 * arithmetic
    )


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
def test_equals_the_reference(form: str, dtype: torch.dtype, weighted: bool) -> None:
    ours, reference = problem(form, 9, 5, weighted=weighted)
    assert_equal(ours, reference, (4 * torch.randn(9, 5)).to(DEVICE, dtype))


def test_half_precision() -> None:
    ours, reference = problem("focal", 9, 5, weighted=True)
    assert_equal(ours, reference, (4 * torch.randn(9, 5)).to(DEVICE, torch.float16))


@pytest.mark.parametrize("columns", [1, 2, 16, 17, 80, 91, 365, 1203])
def test_any_number_of_classes(columns: int) -> None:
    for form in ("focal", "quality"):
        ours, reference = problem(form, 3, columns, weighted=False)
        assert_equal(ours, reference, (4 * torch.randn(3, columns)).to(DEVICE))


@pytest.mark.parametrize("columns", [2, 3, 17, 32, 33, 1024])
def test_any_number_of_bins(columns: int) -> None:
    ours, reference = problem("distribution", 3, columns, weighted=True)
    assert_equal(ours, reference, (4 * torch.randn(3, columns)).to(DEVICE))


@pytest.mark.parametrize("rows", [63, 64, 65])
@pytest.mark.parametrize("form", ["focal", "distribution"])
def test_blocks_cover_all_rows(form: str, rows: int) -> None:
    ours, reference = problem(form, rows, 16, weighted=True)
    assert_equal(ours, reference, torch.randn(rows, 16).to(DEVICE))


def test_chunks_leave_little_empty() -> None:
    from codetr_kernels.losses.triton.launch import columns

    assert {k: columns(k) for k in (1, 2, 16, 20, 80, 91, 128, 365, 1203)} == {
        **{1: 1, 2: 2, 16: 16, 20: 16, 80: 16},
        **{91: 32, 128: 128, 365: 128, 1203: 128},
    }


def test_inputs_need_not_be_contiguous() -> None:
    logits, target, quality = (
        x.to(DEVICE) for x in (torch.randn(4, 6, 5), torch.randint(0, 6, (6, 4)), torch.rand(6, 4))
    )
    scattered = target.t(), quality.t(), quality.t()
    dense = tuple(x.contiguous() for x in scattered)
    columns = logits.transpose(1, 2).contiguous().transpose(1, 2)
    assert not columns.is_contiguous() and not scattered[0].is_contiguous()
    assert torch.equal(quality_focal_loss(columns, *scattered), quality_focal_loss(logits, *dense))
    assert torch.equal(distribution_focal_loss(columns, scattered[1]), distribution_focal_loss(logits, dense[1]))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_any_label_that_is_no_class_is_background(dtype: torch.dtype) -> None:
    logits = torch.randn(4, 5, device=DEVICE)
    target = torch.tensor([5, -1, 10**6, -(2**31)], dtype=dtype, device=DEVICE)
    background = torch.full((4,), 5, device=DEVICE)
    assert torch.equal(sigmoid_focal_loss_rows(logits, target), sigmoid_focal_loss_rows(logits, background))


def test_a_target_that_is_no_number_is_not_hidden() -> None:
    found = distribution_focal_loss(torch.zeros(2, 3, device=DEVICE), torch.tensor([float("nan"), 1.0], device=DEVICE))
    assert found.isnan().tolist() == [True, False]


def test_more_bins_than_the_kernel_takes_run_the_reference_with_a_warning() -> None:
    logits, target = torch.randn(2, 1025, device=DEVICE), torch.tensor([3.5, 1000.0], device=DEVICE)
    with pytest.warns(RuntimeWarning, match="up to 1024 bins, not 1025"):
        found = distribution_focal_loss(logits, target)
    torch.testing.assert_close(found, distribution_focal_loss_reference(logits, target))


@pytest.mark.gpu
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "columns"), [(44_446, 80), (1800, 91), (9000, 1203)])
def test_many_rows(form: str, dtype: torch.dtype, rows: int, columns: int) -> None:
    if form == "distribution":
        columns = 17
    ours, reference = problem(form, rows, columns, weighted=True)
    assert_equal(ours, reference, (4 * torch.randn(rows, columns)).to(DEVICE, dtype))


@pytest.mark.gpu
def test_more_than_2_to_the_31_logits() -> None:
    if torch.cuda.mem_get_info()[0] < 20 * 2**30:
        pytest.skip("needs 20 GiB of GPU memory")
    rows = 2**31 // 1203 + 1000
    logits = torch.zeros(rows, 1203, dtype=torch.bfloat16, device=DEVICE, requires_grad=True)
    loss = sigmoid_focal_loss_rows(logits, torch.full((rows,), 7, device=DEVICE))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.equal(loss, loss[:1].expand(rows)) and torch.equal(gradient[-1], gradient[0])
