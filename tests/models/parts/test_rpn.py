"""Region proposals."""

from __future__ import annotations

import math

import pytest
import torch

from codetr.assigners.contract import Priors
from codetr.models.parts.rpn import Rpn, RpnConfig, RpnOutput
from codetr.structures import Pyramid, Targets

# Two levels of two anchors; an image of 40 x 40 and one of 40 x 20.
ANCHORS = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 20, 20], [30, 30, 50, 50]])
SIZES = torch.tensor([[40.0, 40.0], [40.0, 20.0]])


def output(objectness: list[float], deltas: torch.Tensor | None = None) -> RpnOutput:
    scores = torch.tensor([objectness] * 2)
    priors = Priors(ANCHORS, torch.ones(2, 4, dtype=torch.bool), (2, 2))
    return RpnOutput(scores, torch.zeros(2, 4, 4) if deltas is None else deltas, priors)


def test_forward_follows_the_anchors() -> None:
    rpn = Rpn(RpnConfig(channels=8), dim=4)
    pyramid = Pyramid((torch.randn(2, 4, 3, 4), torch.randn(2, 4, 2, 2)), (8, 16), torch.tensor([[24.0, 32.0]] * 2))
    out = rpn(pyramid)
    assert out.objectness.shape == (2, 16 * 9) and out.deltas.shape == (2, 16 * 9, 4)
    hidden = rpn.conv(pyramid.maps[1]).relu()
    row, column, anchor = 1, 0, 7
    place = 12 * 9 + (row * 2 + column) * 9 + anchor
    torch.testing.assert_close(out.objectness[1, place], rpn.objectness(hidden)[1, anchor, row, column])
    torch.testing.assert_close(out.deltas[1, place], rpn.deltas(hidden)[1, anchor * 4 : anchor * 4 + 4, row, column])


def test_proposals_are_suppressed_within_a_level_clipped_and_padded() -> None:
    rpn = Rpn(RpnConfig(channels=8), dim=4)
    boxes, valid = rpn.proposals(output([3.0, 2.0, 1.0, 0.0]), SIZES, train=True)
    assert valid.tolist() == [[True, True, True, False], [True, True, False, False]]
    assert boxes[0].tolist() == [[0, 0, 10, 10], [0, 0, 20, 20], [30, 30, 40, 40], [0, 0, 0, 0]]
    assert boxes[1].tolist() == [[0, 0, 10, 10], [0, 0, 20, 20], [0, 0, 0, 0], [0, 0, 0, 0]]  # the last is outside


def test_proposals_apply_deltas_without_gradient() -> None:
    rpn = Rpn(RpnConfig(channels=8), dim=4)
    deltas = torch.tensor([0.5, 0.0, 0.0, math.log(2)]).expand(2, 4, 4).clone().requires_grad_()
    boxes, _ = rpn.proposals(output([3.0, -9.0, -9.0, -9.0], deltas), SIZES, train=True)
    torch.testing.assert_close(boxes[0, 0], torch.tensor([5.0, 0.0, 15.0, 15.0]))  # the top is clipped from -5
    assert not boxes.requires_grad


def test_limits_of_training_and_inference() -> None:
    config = RpnConfig(channels=8, train_candidates=1, train_proposals=9, test_candidates=9, test_proposals=2)
    rpn = Rpn(config, dim=4)
    boxes, valid = rpn.proposals(output([2.0, 3.0, 1.0, 0.0]), SIZES, train=True)
    assert boxes[0][valid[0]].tolist() == [[0, 0, 10, 9], [0, 0, 20, 20]]  # the best of each level
    boxes, valid = rpn.proposals(output([2.0, 3.0, 1.0, 9.0]), SIZES, train=False)
    assert boxes[0].tolist() == [[30, 30, 40, 40], [0, 0, 10, 9]]


@pytest.mark.parametrize("samples", [100, 4])
def test_losses(samples: int) -> None:
    """Image 0: anchors 0 and 1 positive (IoU 1 and 0.9), 2 (IoU 0.25) and 3 negative. Image 1: all negative.

    Four samples are just enough for all of them.
    """
    rpn = Rpn(RpnConfig(channels=8, samples=samples, class_weight=2.0, l1_weight=3.0), dim=4)
    boxes = torch.tensor([[[0.0, 0, 10, 10]], [[0, 0, 0, 0]]])
    targets = Targets(boxes, torch.zeros(2, 1, dtype=torch.long), torch.tensor([[True], [False]]), (1, 0))
    losses = rpn.losses(output([0.0, 0.0, 0.0, 0.0]), targets)
    # Divisor: image 0 has 2 + 2, image 1 counts 1 for its missing positives and 4 negatives.
    assert losses["rpn_cls"].item() == pytest.approx(2 * 8 * math.log(2) / 9)
    distance = 0.5 / 9 + math.log(10 / 9)  # anchor 1 is half a pixel too high and 9 instead of 10 tall
    assert losses["rpn_box"].item() == pytest.approx(3 * distance / 9)


def test_the_anchor_s_own_image_decides_what_is_ignored() -> None:
    rpn = Rpn(RpnConfig(channels=8), dim=4)
    out = output([0.0, 0.0, 0.0, 0.0])
    valid = torch.tensor([[True, True, True, False], [False, False, False, False]])
    targets = Targets(
        torch.zeros(2, 1, 4), torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 1, dtype=torch.bool), (0, 0)
    )
    losses = rpn.losses(RpnOutput(out.objectness, out.deltas, Priors(ANCHORS, valid, (2, 2))), targets)
    # Three negatives; divisor 1 + 3 for the first image, 1 + 1 for the second, which has nothing at all.
    assert losses["rpn_cls"].item() == pytest.approx(3 * math.log(2) / 6)
    assert losses["rpn_box"].item() == 0
