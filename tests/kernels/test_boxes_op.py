"""Overlaps and box losses as operators of torch: autograd, compile, export, autocast."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from codetr_kernels import ciou_loss, diou_loss, giou_loss, iou_loss, pairwise_giou
from codetr_kernels.boxes import box_loss_reference
from samples import DEVICE
from torch import Tensor, nn

pytestmark = pytest.mark.kernel

LOSSES = {"iou": iou_loss, "giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}


def boxes(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """cxcywh in units of the image."""
    return torch.cat([torch.rand(*shape, 2), 0.1 + 0.4 * torch.rand(*shape, 2)], dim=-1).to(DEVICE, dtype)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou"])
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    inputs = boxes(4).requires_grad_(), boxes(4).requires_grad_()
    # Random coordinates lie further apart than the step of 1e-6, so none passes a kink.
    assert torch.autograd.gradcheck(lambda a, b: LOSSES[kind](a, b, box_format="cxcywh"), inputs)


@pytest.mark.parametrize("kind", LOSSES)
def test_second_derivatives_go_through_the_reference(kind: str) -> None:
    inputs = boxes(5).requires_grad_(), boxes(5).requires_grad_()

    def penalty(loss: Tensor) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(loss.sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    found = penalty(LOSSES[kind](*inputs, box_format="cxcywh"))
    wanted = penalty(box_loss_reference(*inputs, kind=kind, box_format="cxcywh"))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        assert b.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_operators_are_registered_as_torch_wants_them() -> None:
    ops = torch.ops.codetr_kernels
    torch.library.opcheck(ops.pairwise_overlap.default, (boxes(2, 3), boxes(2, 2), True, True))
    inputs = boxes(3).requires_grad_(), boxes(3).requires_grad_()
    for kind in LOSSES:
        torch.library.opcheck(ops.box_loss.default, (*inputs, kind, True))
    for needs in ((True, True), (True, False), (False, True)):
        given = (torch.ones(3, dtype=torch.float64, device=DEVICE), boxes(3), boxes(3), "giou", True, *needs)
        torch.library.opcheck(ops.box_loss_backward.default, given)


class Layer(nn.Module):
    """A projection before a loss, and overlaps that need no gradient."""

    def __init__(self, loss: Callable[..., Tensor] = giou_loss) -> None:
        super().__init__()
        self.box = nn.Linear(4, 4)
        self.loss = loss

    def forward(self, tokens: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        prediction = self.box(tokens).sigmoid()
        overlap = pairwise_giou(prediction.detach(), target, box_format="cxcywh")
        return self.loss(prediction, target, box_format="cxcywh"), overlap


def layer_inputs(count: int = 5) -> tuple[Tensor, Tensor]:
    return torch.randn(2, count, 4, device=DEVICE), boxes(2, count, dtype=torch.float32)


@pytest.mark.parametrize("kind", ["giou", "ciou"])
def test_compiled_without_a_break(kind: str) -> None:
    layer, inputs = Layer(LOSSES[kind]).to(DEVICE), layer_inputs()
    compiled = torch.compile(layer, fullgraph=True, backend="inductor" if DEVICE == "cuda" else "aot_eager")
    found, wanted = compiled(*inputs), layer(*inputs)
    torch.testing.assert_close(found, wanted)
    for a, b in zip(
        torch.autograd.grad(found[0].sum(), list(layer.parameters())),
        torch.autograd.grad(wanted[0].sum(), list(layer.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_exported_with_any_number_of_boxes() -> None:
    layer, inputs = Layer().to(DEVICE), layer_inputs()
    count = torch.export.Dim("count", min=2, max=64)
    with torch.no_grad():
        exported = torch.export.export(layer, inputs, dynamic_shapes=({1: count}, {1: count}))
    names = {str(node.target) for node in exported.graph.nodes}
    assert {"codetr_kernels.box_loss.default", "codetr_kernels.pairwise_overlap.default"} <= names
    others = layer_inputs(9)
    torch.testing.assert_close(exported.module()(*others), layer(*others))


def test_under_autocast() -> None:
    layer, inputs = Layer().to(DEVICE), layer_inputs()
    with torch.autocast(DEVICE, torch.bfloat16):
        loss, overlap = layer(*inputs)
    assert loss.dtype == overlap.dtype == torch.float32
    loss.sum().backward()
    assert layer.box.weight.grad is not None and layer.box.weight.grad.dtype == torch.float32


@pytest.mark.gpu
def test_nothing_waits_for_the_device_and_graphs_capture_it() -> None:
    prediction, target = boxes(2, 9).requires_grad_(), boxes(2, 9)

    def step() -> Tensor:
        loss = ciou_loss(prediction, target, box_format="cxcywh").sum()
        overlaps = pairwise_giou(prediction.detach(), target, box_format="cxcywh")
        return torch.autograd.grad(loss, prediction)[0] + overlaps.sum()

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
