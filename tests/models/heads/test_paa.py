"""The PAA head: losses by hand and against a plain loop, what is offered and what is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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
from torch import Tensor

from codetr.structures import Pyramid, Targets

Objects = Callable[[str], Targets]
STDS = (0.1, 0.1, 0.2, 0.2)


def test_losses_by_hand() -> None:
    """Anchors of 16 x 16; IoU with the object 1/7, 1/3, 1/3 and 1: all are offered.

    Their boxes are the anchors, their GIoU losses 1 - 1/7 + 2/9, 2/3, 2/3 and 0. Times 50 these are two heaps far
    apart, so that the last anchor alone is kept. Its IoU 1 is to be predicted, and is predicted as 1/2.
    """
    head = constant("paa", anchor_scale=2, giou_weight=50.0, box=[0.0] * 4)
    output = head(four_cells(), one_object(0, 0, 16, 16))
    losses = {term: loss.item() for term, loss in output.losses.items()}
    assert losses == pytest.approx({"cls": YES + 7 * NO, "box": 0, "iou": 0.5 * LN2}, rel=1e-6, abs=1e-6)
    assert output.positives.boxes[output.positives.valid].tolist() == [[0, 0, 16, 16]]


def test_judged_are_predictions_not_overlaps() -> None:
    """Every anchor predicts itself shifted by a width: the first one's box is then the best, and is kept."""
    head = constant("paa", anchor_scale=2, giou_weight=50.0, box=[5.0, 5.0, 0, 0])
    output = head(four_cells(), one_object(0, 0, 16, 16))
    assert output.positives.boxes[output.positives.valid].tolist() == [[-8, -8, 8, 8]]


def test_few_positives_count_as_one_of_each_image() -> None:
    """One positive in two images: its classes are divided by two, its IoU by one."""
    pyramid, target = four_cells(), one_object(0, 0, 16, 16)
    twice = Pyramid((pyramid.maps[0].repeat(2, 1, 1, 1),), (8,), pyramid.sizes.repeat(2, 1))
    valid = torch.tensor([[True, False], [False, False]])
    targets = Targets(target.boxes.repeat(2, 1, 1) * valid[..., None], target.labels.repeat(2, 1), valid, (1, 0))
    losses = constant("paa", anchor_scale=2, giou_weight=50.0, box=[0.0] * 4)(twice, targets).losses
    assert losses["cls"].item() == pytest.approx((YES + 15 * NO) / 2, rel=1e-6)
    assert losses["iou"].item() == pytest.approx(0.5 * LN2, rel=1e-6)


def test_ranks_by_the_root_of_class_and_iou() -> None:
    head = constant("paa", box=[0.0] * 4)
    assert head.score(torch.tensor([0.5]), torch.tensor([0.08])).item() == pytest.approx(0.2)


def test_equals_a_plain_loop(pyramid: Pyramid, objects: Objects) -> None:
    """Each anchor by itself, in float64: what is offered is judged, kept by a plain mixture, and summed up."""
    targets = objects("both")
    head = build("paa")
    with torch.no_grad():
        for layer in (head.cls, head.box, head.iou):
            layer.weight.mul_(30)
    losses = head(pyramid, targets).losses
    priors = head.anchors.priors(pyramid)
    logits, deltas, predicted = (part.double().tolist() for part in head._predictions(pyramid.maps))
    anchors = priors.boxes.double().tolist()
    offered = head.assigner.assign(priors, targets)
    judged: dict[tuple[int, int], float] = {}
    cost = {}
    for b, p, label, box in rows(offered, targets):
        if label >= 0:
            iou, giou = plain_overlap(plain_decode(anchors[p], deltas[b][p], STDS), box)
            judged[b, p] = plain_focal(logits[b][p], label) + 1.3 * (1 - giou)
            cost[b, p] = (iou, giou)
    kept = plain_keep(offered, judged, priors.level_sizes)
    assert 0 < len(kept) < len(judged)

    focal = entropy = box_loss = weight = 0.0
    for b, p, label, _ in rows(offered, targets):
        positive = (b, p) in kept
        focal += plain_focal(logits[b][p], label if positive else -1)
        if positive:
            iou, giou = cost[b, p]
            weight += iou
            box_loss += iou * (1 - giou)
            entropy += plain_entropy(predicted[b][p], iou)
    expected = {
        "cls": focal / max(len(kept), 2),
        "box": 1.3 * box_loss / max(weight, 1),
        "iou": 0.5 * entropy / len(kept),
    }
    assert {term: loss.item() for term, loss in losses.items()} == pytest.approx(expected, rel=1e-5)


def test_no_gradient_flows_through_the_overlap(pyramid: Pyramid, objects: Objects) -> None:
    """It is the target of one loss and the weight of another."""
    head = build("paa")
    head(pyramid, objects("both")).losses["iou"].backward()
    assert head.box.weight.grad is None and head.iou.weight.grad.any()


def plain_keep(
    offered: Tensor, judged: dict[tuple[int, int], float], level_sizes: Sequence[int]
) -> set[tuple[int, int]]:
    """Of each object the nine best of each level, and of those the better component of a mixture of two normals."""
    ends = torch.tensor(level_sizes).cumsum(0).tolist()
    kept: set[tuple[int, int]] = set()
    for b in range(len(offered)):
        for gt in range(int(offered[b].max()) + 1):
            candidates: list[tuple[float, int]] = []
            for start, end in zip([0, *ends], ends, strict=False):
                level = [(judged[b, p], p) for p in range(start, end) if offered[b, p] == gt]
                candidates += sorted(level)[:9]
            candidates.sort()
            good = plain_mixture([loss for loss, _ in candidates])
            kept |= {(b, p) for (_, p), is_good in zip(candidates, good, strict=True) if is_good}
    return kept


def plain_mixture(x: list[float]) -> list[bool]:
    """Sorted losses: those up to the likeliest one of the component that began at the least."""
    if len(x) < 2:
        return [False] * len(x)
    weight, mean, variance = [0.5, 0.5], [x[0], x[-1]], [1.0, 1.0]
    last = -math.inf

    def joint(value: float) -> list[float]:
        return [
            w * math.exp(-0.5 * (value - m) ** 2 / v) / math.sqrt(2 * math.pi * v)
            for w, m, v in zip(weight, mean, variance, strict=True)
        ]

    for _ in range(100):
        likelihood = sum(math.log(sum(joint(value))) for value in x) / len(x)
        share = [[j / sum(joint(value)) for j in joint(value)] for value in x]
        for k in range(2):
            total = sum(s[k] for s in share)
            mean[k] = sum(s[k] * value for s, value in zip(share, x, strict=True)) / total
            variance[k] = sum(s[k] * (v - mean[k]) ** 2 for s, v in zip(share, x, strict=True)) / total + 1e-6
            weight[k] = total / len(x)
        if abs(likelihood - last) < 1e-3:
            break
        last = likelihood
    foreground = [joint(value)[0] >= joint(value)[1] for value in x]
    density = [sum(joint(value)) if is_in else -1.0 for value, is_in in zip(x, foreground, strict=True)]
    if not any(foreground):
        return foreground
    limit = x[density.index(max(density))]
    return [is_in and value <= limit for value, is_in in zip(x, foreground, strict=True)]
