"""The ATSS head: its losses by hand and against a plain loop. Against the authors' code: `test_published.py`."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from one_stage import (
    LN2,
    NO,
    YES,
    build,
    constant,
    four_cells,
    one_object,
    plain_decode,
    plain_entropy,
    plain_focal,
    plain_overlap,
    rows,
)

from codetr.structures import Pyramid, Targets


def test_losses_by_hand() -> None:
    """Anchors of 8 x 8, one of them the object, the others beside it.

    The threshold of the candidates' IoUs 0, 0, 0, 1 is 1/4 + 1/2. The positive's box is shifted by half its width, 5
    deltas of a tenth: IoU and generalised IoU 32 / 96. Its centre is the object's, so centerness is to be 1.
    """
    head = constant("atss", anchor_scale=1, box=[5.0, 0, 0, 0])
    output = head(four_cells(), one_object(4, 4, 12, 12))
    losses = {term: loss.item() for term, loss in output.losses.items()}
    assert losses == pytest.approx({"cls": YES + 7 * NO, "box": 2 * 2 / 3, "centerness": LN2}, rel=1e-6)
    assert output.positives.boxes[output.positives.valid].tolist() == [[4, 4, 12, 12]]


def test_equals_a_plain_loop(pyramid: Pyramid, objects: Callable[[str], Targets]) -> None:
    """Each anchor by itself, in float64."""
    targets = objects("both")
    head = build("atss")
    with torch.no_grad():
        for layer in (head.cls, head.box, head.centerness):
            layer.weight.mul_(30)
    losses = head(pyramid, targets).losses
    priors = head.anchors.priors(pyramid)
    logits, deltas, quality = (part.double().tolist() for part in head._predictions(pyramid.maps))
    anchors = priors.boxes.double().tolist()
    focal = entropy = box_loss = weight = 0.0
    count = {0: 0, 1: 0}
    for b, p, label, box in rows(head.assigner.assign(priors, targets), targets):
        focal += plain_focal(logits[b][p], label)
        if label >= 0:
            count[b] += 1
            x, y = (anchors[p][0] + anchors[p][2]) / 2, (anchors[p][1] + anchors[p][3]) / 2
            across, along = sorted((x - box[0], box[2] - x)), sorted((y - box[1], box[3] - y))
            centerness = math.sqrt(across[0] / across[1] * along[0] / along[1])
            _, giou = plain_overlap(plain_decode(anchors[p], deltas[b][p], (0.1, 0.1, 0.2, 0.2)), box)
            weight += centerness
            box_loss += centerness * (1 - giou)
            entropy += plain_entropy(quality[b][p], centerness)
    assert min(count.values()) > 1 and weight > 1
    total = sum(count.values())
    expected = {"cls": focal / total, "box": 2 * box_loss / weight, "centerness": entropy / total}
    assert {term: loss.item() for term, loss in losses.items()} == pytest.approx(expected, rel=1e-5)
