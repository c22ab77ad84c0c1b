"""Class losses of rows: what they are, and the contract."""

from __future__ import annotations

import math

import pytest
import torch
from codetr_kernels import distribution_focal_loss, quality_focal_loss, sigmoid_focal_loss_rows
from samples import DEVICE
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss as torchvision_focal


def tensor(rows: object) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32, device=DEVICE)


def labels(*numbers: int) -> Tensor:
    return torch.tensor(numbers, device=DEVICE)


HALF = 0.25 * math.log(2)
"""Focal loss at a probability of 1/2 with an exponent of 2, before its weight."""


@pytest.mark.literal
def test_focal_loss() -> None:
    found = sigmoid_focal_loss_rows(torch.zeros(3, 2, device=DEVICE), labels(0, 1, 2))
    torch.testing.assert_close(found, tensor([HALF, HALF, 1.5 * HALF]))  # 2 is background
    weighted = sigmoid_focal_loss_rows(torch.zeros(3, 2, device=DEVICE), labels(0, 1, 2), tensor([2.0, 0.0, 1.0]))
    torch.testing.assert_close(weighted, tensor([2 * HALF, 0.0, 1.5 * HALF]))


@pytest.mark.literal
def test_focal_loss_of_unequal_probabilities() -> None:
    logits = tensor([[math.log(3), -math.log(3)]])  # probabilities of 3/4 and 1/4
    found = sigmoid_focal_loss_rows(logits, labels(1), alpha=0.5, gamma=1.0)
    torch.testing.assert_close(found, tensor([0.5 * 0.75 * math.log(4) * 2]))
    plain = sigmoid_focal_loss_rows(logits, labels(0), alpha=0.5, gamma=0.0)
    torch.testing.assert_close(plain, tensor([0.5 * math.log(4 / 3) * 2]))


@pytest.mark.literal
def test_a_small_cross_entropy_keeps_its_digits() -> None:
    found = sigmoid_focal_loss_rows(tensor([[18.0]]), labels(0), alpha=0.5, gamma=0.0)
    assert found.item() == pytest.approx(0.5 * math.log1p(math.exp(-18)), rel=1e-5)


@pytest.mark.literal
def test_quality_focal_loss() -> None:
    logits = tensor([[0.0, math.log(3)], [0.0, 0.0]])
    found = quality_focal_loss(logits, labels(1, 2), tensor([0.25, float("nan")]))
    labelled = 0.5**2 * (0.25 * math.log(4 / 3) + 0.75 * math.log(4))  # (3/4 - 1/4)**2 times the cross-entropy
    torch.testing.assert_close(found, tensor([labelled + HALF, 2 * HALF]))
    # At the quality itself the modulation is 0, and so is the gradient.
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(
        quality_focal_loss(logits, labels(1, 0), tensor([0.75, 0.5]), beta=1.0)[1], logits
    )
    assert gradient[1, 0].item() == 0


@pytest.mark.literal
def test_distribution_focal_loss() -> None:
    logits = torch.tensor([1.0, 2.0, 5.0], device=DEVICE).log().expand(5, 3)  # probabilities 1/8, 2/8, 5/8
    found = distribution_focal_loss(logits, tensor([0.0, 0.25, 1.0, 2.0, 3.0]))
    first, second, third = math.log(8), math.log(4), math.log(8 / 5)
    # 3 is clamped to the last bin.
    wanted = tensor([first, 0.75 * first + 0.25 * second, second, third, third])
    torch.testing.assert_close(found, wanted)
    # A constant changes nothing, but rounds logits to 2**-17.
    shifted = distribution_focal_loss(logits - 200, tensor([0.0, 0.25, 1.0, 2.0, 3.0]))
    torch.testing.assert_close(shifted, wanted, rtol=0, atol=2.0**-15)


@pytest.mark.literal
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.375, 1.5), (0.5, 0.0), (0.25, 3.0)])
def test_focal_loss_equals_torchvision(alpha: float, gamma: float) -> None:
    logits = (2 * torch.randn(3, 7, 5, dtype=torch.float64)).to(DEVICE).requires_grad_()
    target = torch.randint(0, 6, (3, 7)).to(DEVICE)
    found = sigmoid_focal_loss_rows(logits, target, alpha=alpha, gamma=gamma)
    one_hot = torch.nn.functional.one_hot(target, 6)[..., :5].double()
    wanted = torchvision_focal(logits, one_hot, alpha=alpha, gamma=gamma).sum(-1)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    for a, b in zip(torch.autograd.grad(found.sum(), logits), torch.autograd.grad(wanted.sum(), logits), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def quality_loss_of(row: list[float], label: int, quality: float, beta: float) -> float:
    """One row by mmdetection's two cases, in Python's numbers."""
    total = 0.0
    for place, logit in enumerate(row):
        p = sigmoid(logit)
        if place == label:
            entropy = -quality * math.log(p) - (1 - quality) * math.log(1 - p)
            total += abs(quality - p) ** beta * entropy
        else:
            total += -math.log(1 - p) * p**beta
    return total


def distribution_loss_of(row: list[float], target: float) -> float:
    """One row by mmdetection's formula: two cross-entropies."""
    log_total = math.log(sum(math.exp(logit) for logit in row))
    left = int(target)
    return (left + 1 - target) * (log_total - row[left]) + (target - left) * (log_total - row[left + 1])


@pytest.mark.literal
@pytest.mark.parametrize("beta", [2.0, 1.0, 1.5])
def test_quality_focal_loss_equals_mmdetections_formula(beta: float) -> None:
    logits, quality = 2 * torch.randn(8, 6, dtype=torch.float64), torch.rand(8, dtype=torch.float64)
    target = torch.arange(8) % 7
    found = quality_focal_loss(logits.to(DEVICE), target.to(DEVICE), quality.to(DEVICE), beta=beta)
    wanted = [
        quality_loss_of(row, label, score, beta)
        for row, label, score in zip(logits.tolist(), target.tolist(), quality.tolist(), strict=True)
    ]
    assert found.tolist() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.literal
def test_distribution_focal_loss_equals_mmdetections_formula() -> None:
    logits, target = torch.randn(9, 17, dtype=torch.float64), 15.99 * torch.rand(9, dtype=torch.float64)
    found = distribution_focal_loss(logits.to(DEVICE), target.to(DEVICE))
    wanted = [distribution_loss_of(*pair) for pair in zip(logits.tolist(), target.tolist(), strict=True)]
    assert found.tolist() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.literal
@pytest.mark.parametrize("gamma", [2.0, 0.5, 0.0])
@pytest.mark.parametrize("size", [100.0, 1000.0, 1e30])
def test_extreme_logits_are_finite(size: float, gamma: float) -> None:
    logits = tensor([[size, -size]] * 3).requires_grad_()
    # Both right; the first wrong; both wrong.
    found = sigmoid_focal_loss_rows(logits, labels(0, 2, 1), gamma=gamma)
    torch.testing.assert_close(found, tensor([0.0, 0.75 * size, 0.25 * size + 0.75 * size]))
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    torch.testing.assert_close(gradient, tensor([[0.0, 0.0], [0.75, 0.0], [0.75, -0.25]]), rtol=1e-6, atol=1e-20)
    quality = tensor([0.5, 0.0, 0.0])
    (gradient,) = torch.autograd.grad(quality_focal_loss(logits, labels(0, 2, 1), quality).sum(), logits)
    torch.testing.assert_close(gradient, tensor([[0.125, 0.0], [1.0, 0.0], [1.0, 0.0]]), rtol=1e-6, atol=1e-20)
    (gradient,) = torch.autograd.grad(distribution_focal_loss(logits, tensor([0.0, 0.5, 1.0])).sum(), logits)
    torch.testing.assert_close(gradient, tensor([[0.0, 0.0], [0.5, -0.5], [1.0, -1.0]]), rtol=1e-6, atol=1e-20)


@pytest.mark.literal
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_infinite_logits_cost_nothing_or_infinity() -> None:
    infinity = float("inf")
    logits = tensor([[infinity, -infinity], [infinity, 0.0], [-infinity, 0.0], [float("nan"), 0.0], [0.0, 0.0]])
    logits.requires_grad_()
    found = sigmoid_focal_loss_rows(logits, labels(0, 2, 0, 1, 1))
    assert found[:3].tolist() == [0, infinity, infinity] and found[3].isnan() and found[4].isfinite()
    (gradient,) = torch.autograd.grad(found, logits, torch.ones_like(found))
    assert gradient[0].tolist() == [0, 0] and gradient[4].isfinite().all()
    assert not gradient[1:4, 0].isfinite().any()


@pytest.mark.literal
@pytest.mark.parametrize("kind", [torch.bool, torch.float32, torch.bfloat16])
def test_rows_of_weight_0_leave_no_trace(kind: torch.dtype) -> None:
    logits = torch.randn(2, 3, 4, device=DEVICE)
    logits[0, 1] = float("nan")
    logits.requires_grad_()
    weights = torch.tensor([[1, 0, 1], [1, 1, 1]], device=DEVICE).to(kind)
    target, quality = torch.full((2, 3), 1, device=DEVICE), torch.full((2, 3), 0.5, device=DEVICE)
    for loss in (
        sigmoid_focal_loss_rows(logits, target, weights),
        quality_focal_loss(logits, target, quality, weights),
        distribution_focal_loss(logits, quality, weights),
    ):
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert loss[0, 1] == 0 and loss.isfinite().all()
        assert gradient[0, 1].eq(0).all() and gradient.isfinite().all() and gradient[0, 0].ne(0).all()


@pytest.mark.literal
def test_targets_have_no_gradient() -> None:
    logits = torch.zeros(2, 3, device=DEVICE, requires_grad=True)
    real = torch.full((2,), 0.5, device=DEVICE, requires_grad=True)
    for loss in (
        sigmoid_focal_loss_rows(logits, labels(0, 1), real),
        quality_focal_loss(logits, labels(0, 1), real, real),
        distribution_focal_loss(logits, real, real),
    ):
        by_logits, by_real = torch.autograd.grad(loss.sum(), (logits, real), allow_unused=True)
        assert by_logits.abs().sum() > 0 and by_real is None


@pytest.mark.literal
@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3), (3,), (4, 1), (2, 0)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    logits = torch.zeros(shape, device=DEVICE, requires_grad=True)
    target = torch.full(shape[:-1], 0, device=DEVICE)
    quality = torch.full(shape[:-1], 0.5, device=DEVICE)
    losses = [sigmoid_focal_loss_rows(logits, target), quality_focal_loss(logits, target, quality)]
    if shape[-1] > 1:
        losses.append(distribution_focal_loss(logits, quality))
    for loss in losses:
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert loss.shape == shape[:-1] and gradient.shape == shape
        assert loss.isfinite().all()


@pytest.mark.literal
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    logits = torch.zeros(1, 2, dtype=dtype, device=DEVICE, requires_grad=True)
    found = sigmoid_focal_loss_rows(logits, labels(0))
    assert found.dtype == torch.float32 and torch.autograd.grad(found.sum(), logits)[0].dtype == dtype
    assert distribution_focal_loss(logits, tensor([0.5])).dtype == torch.float32


@pytest.mark.parametrize(
    ("logits", "target", "weights", "message"),
    [
        (torch.zeros(2, 3).long(), torch.zeros(2).long(), None, r"logits must be floating-point .* got torch.int64"),
        (torch.zeros(2, 3), torch.zeros(3).long(), None, r"labels must be \(2,\), one a row of logits, got \(3,\)"),
        (torch.zeros(2, 3), torch.zeros(2), None, "labels must be int64 or int32, got torch.float32"),
        (torch.zeros(2, 3), torch.zeros(2, device="meta").long(), None, "got logits on cpu, labels on meta"),
        (torch.zeros(2, 3), torch.zeros(2).long(), torch.ones(3), r"weights must be \(2,\)"),
        (torch.zeros(2, 3), torch.zeros(2).long(), torch.ones(2).int(), "weights must be floating-point or bool"),
    ],
)
def test_wrong_arguments(logits: Tensor, target: Tensor, weights: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sigmoid_focal_loss_rows(logits, target, weights)
    with pytest.raises(ValueError, match=message):
        quality_focal_loss(logits, target, torch.zeros(2), weights)


def test_other_wrong_arguments() -> None:
    logits, target = torch.zeros(2, 3), torch.zeros(2).long()
    with pytest.raises(ValueError, match="gamma must be at least 0, got -1"):
        sigmoid_focal_loss_rows(logits, target, gamma=-1.0)
    with pytest.raises(ValueError, match=r"beta must be at least 1, got 0\.5"):
        quality_focal_loss(logits, target, torch.zeros(2), beta=0.5)
    with pytest.raises(ValueError, match=r"quality must be \(2,\)"):
        quality_focal_loss(logits, target, torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"logits must have at least 2 bins, got \(2, 1\)"):
        distribution_focal_loss(logits[:, :1], torch.zeros(2))
    with pytest.raises(ValueError, match=r"target must be floating-point, got torch\.int64"):
        distribution_focal_loss(logits, target)
