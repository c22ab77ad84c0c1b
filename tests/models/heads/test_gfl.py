"""The GFL head: losses by hand and against a plain loop, what its distributions mean."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from one_stage import LN2, build, constant, four_cells, one_object, plain_entropy, plain_overlap, rows, sigmoid

from codetr.structures import Pyramid, Targets

Objects = Callable[[str], Targets]


def test_losses_by_hand() -> None:
    """Anchors of 8 x 8, one of them the object, and distributions without preference over 0, 1 and 2 strides.

    Each side is 1 stride away, where half a stride is wanted, which bins 0 and 1 share. The box is 16 x 16 round the
    object: IoU and generalised IoU 1/4. All scores are 1/2: the class of the object costs (1/2 - 1/4)^2 log 2, each of
    the seven others (1/2)^2 log 2. The weight 1/2 of the only positive is divided by 1.
    """
    head = constant("gfl", anchor_scale=1, reg_max=2, box=[0.0] * 12)
    losses = head(four_cells(), one_object(4, 4, 12, 12)).losses
    expected = {"cls": (1 / 16 + 7 / 4) * LN2, "box": 2 * 0.5 * 0.75, "distribution": 0.25 * 0.5 * math.log(3)}
    assert {term: loss.item() for term, loss in losses.items()} == pytest.approx(expected, rel=1e-6)


def test_a_distance_is_the_mean_of_its_distribution() -> None:
    """Left certainly 0, above between 0 and 1 stride, to the right certainly 2, below without preference."""
    bins = [[50.0, 0, 0], [50, 50, 0], [0, 0, 50], [1, 1, 1]]
    head = constant("gfl", reg_max=2, box=[x for side in bins for x in side])
    anchor = torch.tensor([0.0, 0, 40, 40])
    boxes = head.decode(anchor, head.box.bias, torch.tensor(8.0))
    torch.testing.assert_close(boxes, torch.tensor([20.0, 16, 36, 28]))


def test_targets_beyond_the_last_bin_end_before_it() -> None:
    """Sides are 3 strides away, with bins 0 to 2: 1.9 is wanted, so bin 2 is to have 0.9 and bin 1 the rest.

    The last anchor is the object and the only positive; its weight 1/2 is divided by 1.
    """
    head = constant("gfl", anchor_scale=6, reg_max=2, box=[math.log(1), math.log(2), math.log(5)] * 4)
    losses = head(four_cells(), one_object(-16, -16, 32, 32)).losses
    side = -(0.9 * math.log(5 / 8) + 0.1 * math.log(2 / 8))
    assert losses["distribution"].item() == pytest.approx(0.25 * 0.5 * side, rel=1e-6)


def test_no_gradient_flows_through_quality_and_weights(pyramid: Pyramid, objects: Objects) -> None:
    head = build("gfl")
    losses = head(pyramid, objects("both")).losses
    (losses["box"] + losses["distribution"]).backward(retain_graph=True)
    assert head.cls.weight.grad is None
    head.zero_grad()
    losses["cls"].backward()
    assert head.box.weight.grad is None and head.cls.weight.grad is not None


def test_equals_a_plain_loop(pyramid: Pyramid, objects: Objects) -> None:
    """Each anchor by itself, in float64."""
    targets = objects("both")
    head = build("gfl")
    with torch.no_grad():
        for layer in (head.cls, head.box):
            layer.weight.mul_(30)
    losses = head(pyramid, targets).losses
    priors = head.anchors.priors(pyramid)
    predictions = head._predictions(pyramid.maps)
    logits, bins = (part.double().tolist() for part in predictions[:2])
    anchors = priors.boxes.double().tolist()
    unit = [s for size, s in zip(priors.level_sizes, pyramid.strides, strict=True) for _ in range(size)]
    focal = box_loss = sides = weight = 0.0
    count = {0: 0, 1: 0}
    for b, p, label, box in rows(head.assigner.assign(priors, targets), targets):
        quality = 0.0
        if label >= 0:
            count[b] += 1
            x, y = (anchors[p][0] + anchors[p][2]) / 2, (anchors[p][1] + anchors[p][3]) / 2
            parts = [bins[b][p][17 * side : 17 * side + 17] for side in range(4)]
            shares = [[math.exp(v) / sum(map(math.exp, part)) for v in part] for part in parts]
            left, top, right, bottom = (unit[p] * sum(i * s for i, s in enumerate(share)) for share in shares)
            quality, giou = plain_overlap([x - left, y - top, x + right, y + bottom], box)
            certainty = max(map(sigmoid, logits[b][p]))
            weight += certainty
            box_loss += certainty * (1 - giou)
            for share, reach in zip(shares, (x - box[0], y - box[1], box[2] - x, box[3] - y), strict=True):
                wanted = min(max(reach / unit[p], 0), 15.9)
                low = int(wanted)
                log = (1 - wanted + low) * math.log(share[low]) + (wanted - low) * math.log(share[low + 1])
                sides -= certainty * log / 4
        for k, logit in enumerate(logits[b][p]):
            goal = quality if k == label else 0.0
            focal += (goal - sigmoid(logit)) ** 2 * plain_entropy(logit, goal)
    assert min(count.values()) > 1
    expected = {
        "cls": focal / sum(count.values()),
        "box": 2 * box_loss / max(weight, 1),
        "distribution": 0.25 * sides / max(weight, 1),
    }
    assert {term: loss.item() for term, loss in losses.items()} == pytest.approx(expected, rel=1e-5)
