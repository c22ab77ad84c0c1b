"""Overlaps of pairs and losses of boxes: what they are, and the contract."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from codetr_kernels import ciou_loss, diou_loss, giou_loss, iou_loss, pairwise_giou, pairwise_iou
from samples import DEVICE
from torch import Tensor
from torchvision.ops import (
    box_convert,
    box_iou,
    complete_box_iou_loss,
    distance_box_iou_loss,
    generalized_box_iou,
    generalized_box_iou_loss,
)

Loss = Callable[..., Tensor]

UNIT = [0.0, 0.0, 10.0, 10.0]
TABLE = [
    # box, IoU and generalised IoU with UNIT
    ([0.0, 0.0, 10.0, 10.0], 1, 1),
    ([5.0, 0.0, 15.0, 10.0], 1 / 3, 1 / 3),  # the hull is the union
    ([5.0, 5.0, 15.0, 15.0], 25 / 175, 25 / 175 - 50 / 225),
    ([20.0, 0.0, 30.0, 10.0], 0, -100 / 300),
    ([4.0, 4.0, 4.0, 8.0], 0, 0),  # no width, inside
    ([8.0, 8.0, 2.0, 2.0], 0, 0),  # inverted: counts as empty
    ([20.0, 0.0, 20.0, 10.0], 0, -100 / 200),  # no width, outside: the hull is 20 x 10
]


def tensor(rows: object) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32, device=DEVICE)


def proper(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Boxes of 1 to 41 pixels in an image of 100."""
    corner = torch.rand(*shape, 2, dtype=torch.float64) * 60
    boxes = torch.cat([corner, corner + 1 + torch.rand(*shape, 2, dtype=torch.float64) * 40], dim=-1)
    return boxes.to(DEVICE, dtype)


@pytest.mark.literal
def test_pairs() -> None:
    others = tensor([box for box, _, _ in TABLE])
    torch.testing.assert_close(pairwise_iou(tensor([UNIT]), others), tensor([[iou for _, iou, _ in TABLE]]))
    torch.testing.assert_close(pairwise_giou(others, tensor([UNIT])), tensor([[giou] for _, _, giou in TABLE]))


@pytest.mark.literal
def test_pairs_of_centres_and_sizes() -> None:
    a, b = tensor([[5.0, 5.0, 10.0, 10.0]]), tensor([[10.0, 10.0, 10.0, 10.0], [5.0, 5.0, 0.0, 2.0]])
    torch.testing.assert_close(pairwise_iou(a, b, box_format="cxcywh"), tensor([[25 / 175, 0.0]]))
    torch.testing.assert_close(pairwise_giou(a, b, box_format="cxcywh"), tensor([[25 / 175 - 50 / 225, 0.0]]))


@pytest.mark.literal
def test_two_empty_boxes_at_one_place_overlap_by_nothing() -> None:
    point = torch.zeros(1, 4, device=DEVICE)
    assert pairwise_iou(point, point).item() == pairwise_giou(point, point).item() == 0
    assert [loss(point, point).item() for loss in (iou_loss, giou_loss, diou_loss, ciou_loss)] == [1, 1, 1, 1]


@pytest.mark.literal
@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (iou_loss, [0.0, 1 - 25 / 175, 1.0]),
        (giou_loss, [0.0, 1 - 25 / 175 + 50 / 225, 1 + 100 / 300]),
        (diou_loss, [0.0, 1 - 25 / 175 + 50 / 450, 1 + 400 / 1000]),  # centres 20 apart, hull 30 x 10
        (ciou_loss, [0.0, 1 - 25 / 175 + 50 / 450, 1 + 400 / 1000]),  # squares: no difference of angles
    ],
)
def test_losses(loss: Loss, expected: list[float]) -> None:
    boxes = tensor([UNIT, [5.0, 5.0, 15.0, 15.0], [20.0, 0.0, 30.0, 10.0]])
    torch.testing.assert_close(loss(boxes, tensor(UNIT)), tensor(expected))


@pytest.mark.literal
def test_the_term_of_aspect_ratios() -> None:
    box, target = tensor([0.0, 0.0, 10.0, 5.0]), tensor([0.0, 0.0, 10.0, 10.0])
    v = 4 / math.pi**2 * (math.atan(1) - math.atan(2)) ** 2
    alpha = v / (1 - 0.5 + v)
    without = 1 - 0.5 + 2.5**2 / 200
    assert diou_loss(box, target).item() == pytest.approx(without, rel=1e-6)
    assert ciou_loss(box, target).item() == pytest.approx(without + alpha * v, rel=1e-6)
    flat = tensor([0.0, 0.0, 10.0, 1e-7])
    assert ciou_loss(flat, target).item() == diou_loss(flat, target).item()


@pytest.mark.literal
def test_gradients() -> None:
    box = tensor([5.0, 0.0, 15.0, 10.0]).requires_grad_()
    target = tensor(UNIT).requires_grad_()
    found = torch.autograd.grad(iou_loss(box, target), (box, target))
    # Intersection 50, union 150. Moving x0 by 1 takes 10 from the intersection and from the box's area: the union
    # stays. x1 adds 10 to the union. y0 and the target's y0 are equal: half of the gradient of their maximum each.
    by_intersection, by_union = -1 / 150, 50 / 150**2
    x0, x1 = 10 * -by_intersection, 10 * by_union
    y1 = (5 / 2) * (by_intersection - by_union) + 10 * by_union
    torch.testing.assert_close(found[0], tensor([x0, -y1, x1, y1]))
    torch.testing.assert_close(found[1], tensor([-x1, -y1, -x0, y1]))


@pytest.mark.literal
@pytest.mark.parametrize("loss", [iou_loss, giou_loss, diou_loss, ciou_loss])
def test_degenerate_boxes_have_finite_losses_and_gradients(loss: Loss) -> None:
    boxes = tensor(
        [UNIT, [3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 9.0], [8.0, 8.0, 2.0, 2.0], [0.0] * 4, [1e4, 0, 1e4, 0]]
    )
    a = boxes[:, None].expand(6, 6, 4).reshape(36, 4).requires_grad_()
    b = boxes.repeat(6, 1).requires_grad_()
    found = loss(a, b)
    gradients = torch.autograd.grad(found.sum(), (a, b))
    assert all(x.isfinite().all() for x in (found, *gradients))


def test_pairs_equal_torchvision() -> None:
    a, b = proper(2, 7), proper(2, 5)
    for ours, theirs in ((pairwise_iou, box_iou), (pairwise_giou, generalized_box_iou)):
        expected = torch.stack([theirs(x, y) for x, y in zip(a, b, strict=True)])
        torch.testing.assert_close(ours(a, b), expected, rtol=1e-12, atol=1e-12)
        centres = [box_convert(x, "xyxy", "cxcywh") for x in (a, b)]
        torch.testing.assert_close(ours(*centres, box_format="cxcywh"), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.literal
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (giou_loss, generalized_box_iou_loss),
        (diou_loss, distance_box_iou_loss),
        (ciou_loss, complete_box_iou_loss),
    ],
)
def test_losses_and_gradients_equal_torchvision(ours: Loss, theirs: Loss) -> None:
    a, b = proper(3, 40).requires_grad_(), proper(3, 40).requires_grad_()
    found, expected = ours(a, b), theirs(a, b)
    # Theirs adds 1e-7 to what divides, which is at least 1 here; ours bounds it by 1e-7.
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    grad = torch.rand(3, 40, dtype=torch.float64, device=DEVICE)
    for x, y in zip(torch.autograd.grad(found, (a, b), grad), torch.autograd.grad(expected, (a, b), grad), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


@pytest.mark.literal
@pytest.mark.parametrize("loss", [iou_loss, giou_loss, diou_loss, ciou_loss])
def test_centres_and_sizes_are_the_same_boxes(loss: Loss) -> None:
    a, b = proper(20).requires_grad_(), proper(20)
    centres = box_convert(a.detach(), "xyxy", "cxcywh").requires_grad_()
    found = loss(centres, box_convert(b, "xyxy", "cxcywh"), box_format="cxcywh")
    expected = loss(a, b)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    (by_centres,) = torch.autograd.grad(found.sum(), centres)
    (by_corners,) = torch.autograd.grad(expected.sum(), a)
    low, high = by_corners.split(2, dim=-1)
    torch.testing.assert_close(by_centres, torch.cat([low + high, (high - low) / 2], dim=-1), rtol=1e-9, atol=1e-12)


@pytest.mark.literal
def test_other_dimensions_broadcast() -> None:
    a, b = proper(3, 1, 4), proper(2, 5)
    assert pairwise_iou(a, b).shape == (3, 2, 4, 5)
    assert torch.equal(pairwise_iou(a, b)[2, 1], pairwise_iou(a[2, 0], b[1]))
    assert pairwise_iou(a[0, 0], b[0]).shape == (4, 5)
    prediction = proper(3, 1, 4).requires_grad_()
    loss = giou_loss(prediction, proper(2, 4))
    assert loss.shape == (3, 2, 4)
    loss.sum().backward()
    assert prediction.grad is not None and prediction.grad.shape == (3, 1, 4, 4)


@pytest.mark.literal
@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (3, 0), (0, 0)])
def test_no_boxes(rows: int, columns: int) -> None:
    assert pairwise_giou(proper(2, rows), proper(2, columns)).shape == (2, rows, columns)
    a = proper(0).requires_grad_()
    (gradient,) = torch.autograd.grad(ciou_loss(a, proper(0)).sum(), a)
    assert gradient.shape == (0, 4)


@pytest.mark.literal
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    big = tensor([[0.0, 0.0, 1024.0, 1024.0]]).to(dtype).requires_grad_()  # its area overflows float16
    assert pairwise_iou(big, big).dtype == giou_loss(big, big).dtype == torch.float32
    assert pairwise_iou(big, big).item() == 1 and giou_loss(big, big).item() == 0
    (gradient,) = torch.autograd.grad(giou_loss(big, tensor([[0.0, 0.0, 512.0, 1024.0]])).sum(), big)
    assert gradient.dtype == dtype and gradient.isfinite().all()
    assert pairwise_iou(big, proper(1)).dtype == torch.float64


@pytest.mark.literal
def test_a_box_overlaps_itself_by_exactly_one() -> None:
    boxes = proper(200, dtype=torch.float32)
    assert pairwise_iou(boxes, boxes).diagonal().eq(1).all()
    assert pairwise_giou(boxes, boxes).diagonal().eq(1).all()
    assert all(loss(boxes, boxes).eq(0).all() for loss in (iou_loss, giou_loss, diou_loss, ciou_loss))


@pytest.mark.literal
def test_what_is_no_number_is_not_hidden() -> None:
    broken = tensor([[0.0, float("nan"), 10.0, 10.0]])
    assert pairwise_iou(broken, tensor([UNIT])).isnan().all() and pairwise_giou(tensor([UNIT]), broken).isnan().all()
    for loss in (iou_loss, giou_loss, diou_loss, ciou_loss):
        assert loss(broken, tensor([UNIT])).isnan().all() and loss(tensor([UNIT]), broken).isnan().all()


@pytest.mark.literal
def test_pairs_have_gradients_where_they_are_asked_for() -> None:
    a, b = proper(3).requires_grad_(), proper(2)
    assert torch.autograd.gradcheck(lambda x: pairwise_giou(x, b), (a,))


@pytest.mark.parametrize(
    ("a", "b", "settings", "message"),
    [
        (torch.zeros(3, 5), torch.zeros(3, 4), {}, r"a must be boxes \(\.\.\., N, 4\), got \(3, 5\)"),
        (torch.zeros(4), torch.zeros(3, 4), {}, r"a must be boxes \(\.\.\., N, 4\), got \(4,\)"),
        (torch.zeros(3, 4), torch.zeros(3, 4).int(), {}, "b must be floating-point, got torch.int32"),
        (torch.zeros(3, 4), torch.zeros(3, 4, device="meta"), {}, "one device needed, got a on cpu, b on meta"),
        (torch.zeros(2, 3, 4), torch.zeros(3, 3, 4), {}, r"a and b must have shapes that broadcast, got \(2, 3, 4\)"),
        (torch.zeros(3, 4), torch.zeros(3, 4), {"box_format": "xywh"}, "box_format must be .* got 'xywh'"),
    ],
)
def test_wrong_arguments_of_pairs(a: Tensor, b: Tensor, settings: dict[str, str], message: str) -> None:
    for overlap in (pairwise_iou, pairwise_giou):
        with pytest.raises(ValueError, match=message):
            overlap(a, b, **settings)


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (torch.zeros(3, 5), torch.zeros(3, 4), r"prediction must be boxes \(\.\.\., 4\), got \(3, 5\)"),
        (torch.zeros(3, 4), torch.zeros(3, 4).long(), "target must be floating-point, got torch.int64"),
        (torch.zeros(3, 4), torch.zeros(2, 4), r"prediction and target must have shapes that broadcast, got \(3, 4\)"),
    ],
)
def test_wrong_arguments_of_losses(prediction: Tensor, target: Tensor, message: str) -> None:
    for loss in (iou_loss, giou_loss, diou_loss, ciou_loss):
        with pytest.raises(ValueError, match=message):
            loss(prediction, target)
