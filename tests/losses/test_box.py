"""L1 and the losses of overlaps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from codetr.losses.box import ciou_loss, diou_loss, giou_loss, iou_loss, l1_loss


def test_l1() -> None:
    assert l1_loss(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.0])).tolist() == [0.5, 3.0]


def test_giou_literals() -> None:
    box = torch.tensor([0.0, 0.0, 10.0, 10.0])
    others = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10]])
    torch.testing.assert_close(giou_loss(others, box), torch.tensor([0.0, 2 / 3, 4 / 3]))


def test_iou_literals() -> None:
    box = torch.tensor([0.0, 0.0, 10.0, 10.0])
    others = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 0, 30, 10]])
    torch.testing.assert_close(iou_loss(others, box), torch.tensor([0.0, 2 / 3, 1.0]))


@pytest.mark.parametrize(
    ("mine", "other"),
    [(giou_loss, generalized_box_iou_loss), (diou_loss, distance_box_iou_loss), (ciou_loss, complete_box_iou_loss)],
)
def test_equal_torchvision(mine: Callable[..., Tensor], other: Callable[..., Tensor]) -> None:
    corner = torch.rand(2, 50, 2, dtype=torch.float64) * 50
    a, b = torch.cat([corner, corner + 1 + torch.rand_like(corner) * 50], dim=-1)
    a.requires_grad_()
    ours, theirs = mine(a, b), other(a, b)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)  # theirs adds its eps, ours bounds by it
    torch.testing.assert_close(
        torch.autograd.grad(ours.sum(), a)[0], torch.autograd.grad(theirs.sum(), a)[0], rtol=1e-6, atol=1e-6
    )


def test_half_precision_is_widened() -> None:
    half = torch.tensor([0.0, 0.0, 1000.0, 1000.0], dtype=torch.float16)
    assert giou_loss(half, half).dtype == l1_loss(half, half).dtype == torch.float32
