"""Class losses as operators of torch: autograd, compile, export, autocast."""

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
from samples import DEVICE
from torch import Tensor, nn

pytestmark = pytest.mark.kernel

LABELS = torch.tensor([0, 3, 2, 1], device=DEVICE)
REAL = torch.tensor([0.3, 0.7, 0.2, 0.9], device=DEVICE)
Loss = Callable[[Tensor], Tensor]
FORMS: dict[str, tuple[Loss, Loss]] = {
    "focal": (
        lambda x: sigmoid_focal_loss_rows(x, LABELS, REAL),
        lambda x: sigmoid_focal_loss_rows_reference(x, LABELS, REAL),
    ),
    "focal 1.5": (
        lambda x: sigmoid_focal_loss_rows(x, LABELS, gamma=1.5),
        lambda x: sigmoid_focal_loss_rows_reference(x, LABELS, gamma=1.5),
    ),
    "quality": (
        lambda x: quality_focal_loss(x, LABELS, REAL, REAL),
        lambda x: quality_focal_loss_reference(x, LABELS, REAL, REAL),
    ),
    "quality 1.5": (
        lambda x: quality_focal_loss(x, LABELS, REAL, beta=1.5),
        lambda x: quality_focal_loss_reference(x, LABELS, REAL, beta=1.5),
    ),
    "distribution": (
        lambda x: distribution_focal_loss(x, 2 * REAL),
        lambda x: distribution_focal_loss_reference(x, 2 * REAL),
    ),
}


def logits() -> Tensor:
    return torch.randn(4, 3, dtype=torch.float64).to(DEVICE).requires_grad_()


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_finite_differences(form: str) -> None:
    assert torch.autograd.gradcheck(FORMS[form][0], (logits(),))


@pytest.mark.parametrize("form", FORMS)
def test_second_derivatives_go_through_the_reference(form: str) -> None:
    given = logits()

    def penalty(loss: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(loss.sum(), given, create_graph=True)
        return torch.autograd.grad(first.square().sum(), given)[0]

    found, wanted = (penalty(loss(given)) for loss in FORMS[form])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    assert wanted.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_operators_are_registered_as_torch_wants_them() -> None:
    ops = torch.ops.codetr_kernels
    grad = torch.ones(4, dtype=torch.float64, device=DEVICE)
    for quality, weights in ((None, None), (REAL, REAL), (None, REAL > 0.5)):
        torch.library.opcheck(ops.class_loss.default, (logits(), LABELS, quality, weights, 0.25, 2.0))
        torch.library.opcheck(
            ops.class_loss_backward.default, (grad, logits().detach(), LABELS, quality, weights, 0.25, 2.0)
        )
    torch.library.opcheck(ops.distribution_focal_loss.default, (logits(), REAL, None))
    torch.library.opcheck(ops.distribution_focal_loss_backward.default, (grad, logits().detach(), REAL, REAL))


class Layer(nn.Module):
    """A projection before each loss."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Linear(8, 3)

    def forward(self, tokens: Tensor, labels: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.classes(tokens)
        return (
            sigmoid_focal_loss_rows(logits, labels, quality > 0.2),
            quality_focal_loss(logits, labels, quality),
            distribution_focal_loss(logits, quality),
        )


def layer_inputs(rows: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    tokens, labels, quality = torch.randn(2, rows, 8), torch.randint(0, 4, (2, rows)), torch.rand(2, rows)
    return tokens.to(DEVICE), labels.to(DEVICE), quality.to(DEVICE)


def test_compiled_without_a_break() -> None:
    layer, inputs = Layer().to(DEVICE), layer_inputs()
    compiled = torch.compile(layer, fullgraph=True, backend="inductor" if DEVICE == "cuda" else "aot_eager")
    found, wanted = compiled(*inputs), layer(*inputs)
    torch.testing.assert_close(found, wanted)
    found_grads, wanted_grads = (
        torch.autograd.grad(sum(loss.sum() for loss in losses), list(layer.parameters())) for losses in (found, wanted)
    )
    for a, b in zip(found_grads, wanted_grads, strict=True):
        torch.testing.assert_close(a, b)


def test_exported_with_any_number_of_rows() -> None:
    layer, inputs = Layer().to(DEVICE), layer_inputs()
    rows = torch.export.Dim("rows", min=2, max=64)
    exported = torch.export.export(layer, inputs, dynamic_shapes=({1: rows}, {1: rows}, {1: rows}))
    names = {str(node.target) for node in exported.graph.nodes}
    assert {"codetr_kernels.class_loss.default", "codetr_kernels.distribution_focal_loss.default"} <= names
    others = layer_inputs(9)
    torch.testing.assert_close(exported.module()(*others), layer(*others))


def test_under_autocast() -> None:
    layer, inputs = Layer().to(DEVICE), layer_inputs()
    with torch.autocast(DEVICE, torch.bfloat16):
        losses = layer(*inputs)
    assert {loss.dtype for loss in losses} == {torch.float32}
    sum(loss.sum() for loss in losses).backward()
    assert layer.classes.weight.grad is not None and layer.classes.weight.grad.dtype == torch.float32


@pytest.mark.gpu
def test_nothing_waits_for_the_device_and_graphs_capture_it() -> None:
    layer, inputs = Layer().to(DEVICE), layer_inputs()

    def step() -> Tensor:
        return torch.autograd.grad(sum(loss.sum() for loss in layer(*inputs)), layer.classes.weight)[0]

    wanted = step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = step()
    graph.replay()
    torch.testing.assert_close(output, wanted)
