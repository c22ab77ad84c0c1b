"""The kernels of boxes against the reference: types, sizes, layouts, degenerate boxes."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from codetr_kernels import ciou_loss, diou_loss, giou_loss, iou_loss, pairwise_giou, pairwise_iou
from codetr_kernels.boxes import box_loss_reference, pairwise_giou_reference, pairwise_iou_reference
from samples import DEVICE
from torch import Tensor

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("garbage")]

LOSSES: dict[str, Callable[..., Tensor]] = {
    "iou": iou_loss,
    "giou": giou_loss,
    "diou": diou_loss,
    "ciou": ciou_loss,
}
PAIRS = ((pairwise_iou, pairwise_iou_reference), (pairwise_giou, pairwise_giou_reference))


def boxes(*shape: int, dtype: torch.dtype = torch.float32, share: float = 0.3) -> Tensor:
    """Boxes on a grid of whole pixels, so that coordinates are often equal; a share of them degenerate."""
    corner = torch.randint(0, 12, (*shape, 2))
    size = torch.randint(1, 9, (*shape, 2))
    size = torch.where(torch.rand(*shape, 1) < share, torch.randint(-3, 2, (*shape, 2)), size)
    return torch.cat([corner, corner + size], dim=-1).to(DEVICE, dtype)


def gradients(loss: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    grad = torch.linspace(-1, 2, loss.numel(), dtype=loss.dtype, device=DEVICE).view(loss.shape)
    return torch.autograd.grad(loss, inputs, grad)


@pytest.mark.parametrize("box_format", ["xyxy", "cxcywh"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_pairs_are_the_references_to_the_last_bit(dtype: torch.dtype, box_format: str) -> None:
    a, b = boxes(2, 5, dtype=dtype) / 7, boxes(2, 3, dtype=torch.promote_types(dtype, torch.float32)) / 7
    for ours, reference in PAIRS:
        assert torch.equal(ours(a, b, box_format=box_format), reference(a, b, box_format=box_format))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (65, 33), (17, 129), (16, 128)])
def test_tiles_cover_all_pairs(rows: int, columns: int) -> None:
    a, b = boxes(rows), boxes(2, columns)
    for ours, reference in PAIRS:
        assert torch.equal(ours(a, b), reference(a, b))
        assert torch.equal(ours(b, a), reference(b, a))


@pytest.mark.parametrize("box_format", ["xyxy", "cxcywh"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", LOSSES)
def test_losses_and_gradients_are_the_references(kind: str, dtype: torch.dtype, box_format: str) -> None:
    """Equal coordinates and degenerate boxes among them: at kinks, too, gradients are those of PyTorch's operations."""
    inputs = boxes(300, dtype=dtype).requires_grad_(), boxes(300, dtype=dtype).requires_grad_()
    found = LOSSES[kind](*inputs, box_format=box_format)
    wanted = box_loss_reference(*inputs, kind=kind, box_format=box_format)
    # Values differ by the arc tangent alone, gradients by the order of some ten terms.
    epsilon = torch.finfo(dtype).eps
    torch.testing.assert_close(found, wanted, rtol=4 * epsilon, atol=0)
    for a, b in zip(gradients(found, inputs), gradients(wanted, inputs), strict=True):
        # Where a hull has no area its bound of 1e-7 divides: gradients of 1e7, whose parts cancel.
        scale = b.abs().amax(-1, keepdim=True).clamp(min=1)
        torch.testing.assert_close(a / scale, b / scale, rtol=0, atol=16 * epsilon)


@pytest.mark.parametrize("kind", LOSSES)
def test_gradients_where_a_bound_divides(kind: str) -> None:
    """Unions, hulls and diagonals below 1e-7 are constants."""
    scale = 1e-5
    inputs = tuple((scale * boxes(60, dtype=torch.float64)).requires_grad_() for _ in range(2))
    found = gradients(LOSSES[kind](*inputs), inputs)
    wanted = gradients(box_loss_reference(*inputs, kind=kind), inputs)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_have_the_type_of_their_boxes(dtype: torch.dtype) -> None:
    inputs = boxes(9, dtype=dtype, share=0).requires_grad_(), boxes(9, share=0).requires_grad_()
    found = gradients(ciou_loss(*inputs), inputs)
    exact = tuple(x.detach().double().requires_grad_() for x in inputs)
    wanted = gradients(box_loss_reference(*exact, kind="ciou"), exact)
    assert [g.dtype for g in found] == [dtype, torch.float32]
    # One rounding; the interpreter cuts bfloat16 off. Gradients are below 1 in boxes of whole pixels.
    torch.testing.assert_close(found[0].double(), wanted[0], rtol=2.0**-7, atol=1e-6)
    torch.testing.assert_close(found[1].double(), wanted[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [1, 255, 256, 257])
def test_blocks_cover_all_boxes(count: int) -> None:
    inputs = boxes(count).requires_grad_(), boxes(count).requires_grad_()
    found, wanted = giou_loss(*inputs), box_loss_reference(*inputs, kind="giou")
    torch.testing.assert_close(found, wanted)
    for a, b in zip(gradients(found, inputs), gradients(wanted, inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_only_asked_gradients_are_made() -> None:
    a, b = boxes(9).requires_grad_(), boxes(9).requires_grad_()
    both = gradients(diou_loss(a, b), (a, b))
    assert torch.equal(gradients(diou_loss(a, b.detach()), (a,))[0], both[0])
    assert torch.equal(gradients(diou_loss(a.detach(), b), (b,))[0], both[1])


def test_inputs_need_not_be_contiguous() -> None:
    a, b = boxes(6, 4), boxes(4, 6).transpose(0, 1)
    columns = boxes(2, 6)
    scattered = columns.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(pairwise_iou(a, scattered[:1]), pairwise_iou_reference(a, columns[:1]))
    assert torch.equal(pairwise_iou(a[:2], scattered), pairwise_iou_reference(a[:2], columns))
    left, right = a.requires_grad_(), b.requires_grad_()
    found, wanted = giou_loss(left, right), box_loss_reference(left, right, kind="giou")
    torch.testing.assert_close(found, wanted)
    # A sum's gradient is one number, expanded.
    for x, y in zip(
        torch.autograd.grad(found.sum(), (left, right)), torch.autograd.grad(wanted.sum(), (left, right)), strict=True
    ):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_arc_tangent(dtype: torch.dtype) -> None:
    """By the loss of boxes of one corner, of slopes from 1e-6 to 1e6, against Python's."""
    slopes = torch.logspace(-6, 6, 241, dtype=torch.float64)
    box = torch.stack([torch.zeros(241), torch.zeros(241), slopes, torch.ones(241)], dim=-1).to(DEVICE, dtype)
    square = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=dtype, device=DEVICE).expand(241, 4)
    term = (ciou_loss(box, square) - diou_loss(box, square)).double().tolist()
    for slope, found, distant in zip(box[:, 2].double().tolist(), term, diou_loss(box, square).tolist(), strict=True):
        v = 4 / math.pi**2 * (math.atan(slope) - math.pi / 4) ** 2
        iou = min(slope, 1 / slope)
        # Two roundings of the loss, of up to 2, and two of each angle.
        assert found == pytest.approx(v * v / (1 - iou + v) if v else 0.0, abs=8 * torch.finfo(dtype).eps), distant


def test_boxes_of_one_image_for_all() -> None:
    shared, own = boxes(5), boxes(3, 4)
    for a, b in product((shared, shared.expand(3, 5, 4)), (own,)):
        assert torch.equal(pairwise_iou(a, b), pairwise_iou_reference(a, b))
        assert torch.equal(pairwise_iou(b, a), pairwise_iou_reference(b, a))


@pytest.mark.gpu
def test_many_pairs() -> None:
    a, b = boxes(2, 22_223), boxes(2, 300)
    for ours, reference in PAIRS:
        assert torch.equal(ours(a, b), reference(a, b))


@pytest.mark.gpu
def test_more_than_2_to_the_31_pairs() -> None:
    if torch.cuda.mem_get_info()[0] < 20 * 2**30:
        pytest.skip("needs 20 GiB of GPU memory")
    a, b = boxes(2, 40_000), boxes(2, 30_000)
    found = pairwise_iou(a, b)
    assert torch.equal(found[1, -100:], pairwise_iou_reference(a[1, -100:], b[1]))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", LOSSES)
def test_many_boxes(kind: str) -> None:
    inputs = boxes(2, 22_223, share=0).requires_grad_(), boxes(2, 22_223, share=0).requires_grad_()
    found, wanted = LOSSES[kind](*inputs), box_loss_reference(*inputs, kind=kind)
    torch.testing.assert_close(found, wanted)
    for a, b in zip(gradients(found, inputs), gradients(wanted, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
