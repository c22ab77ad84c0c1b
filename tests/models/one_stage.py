"""One-stage heads for tests: small ones, heads that predict constants, and their losses as plain float64 loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from codetr.assigners.contract import matched
from codetr.models.heads.contract import Head
from codetr.models.parts.positive_sampler import PositiveSampler
from codetr.registry import find
from codetr.structures import Pyramid, Targets

LN2 = math.log(2)
YES, NO = 0.25 * 0.25 * LN2, 0.75 * 0.25 * LN2  # focal loss of a probability of 1/2: alpha 0.25, gamma 2
LOSSES = {
    "atss": {"cls", "box", "centerness"},
    "retinanet": {"cls", "box"},
    "fcos": {"cls", "box", "centerness"},
    "paa": {"cls", "box", "iou"},
    "gfl": {"cls", "box", "distribution"},
}
"""The terms of each one-stage head."""


def build(
    name: str,
    *,
    strides: tuple[int, ...] = (8, 16, 32, 64),
    classes: int = 5,
    sampler: PositiveSampler | None = None,
    **settings: Any,
) -> Any:
    """A head of the width 32."""
    component = find("heads", name)
    config = component.Config.model_validate(settings)
    made = component(config, dim=32, num_classes=classes, strides=strides, sampler=sampler or PositiveSampler())
    assert isinstance(made, Head)
    return made


def constant(name: str, *, box: Sequence[float], **settings: Any) -> Any:
    """A head on stride 8 without towers: of two classes each has a probability of 1/2, and so has the quality.

    box: the numbers that every prior gets.
    """
    head = build(name, strides=(8,), classes=2, **{"stacked_convs": 0, **settings})
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if not name.startswith("scales"):
                parameter.zero_()
        head.box.bias.copy_(torch.tensor(box))
    return head


def four_cells() -> Pyramid:
    """An image of 16 x 16 on a level of stride 8: cells begin at (0, 0), (8, 0), (0, 8) and (8, 8)."""
    return Pyramid((torch.randn(1, 32, 2, 2),), (8,), torch.tensor([[16.0, 16.0]]))


def one_object(*box: float) -> Targets:
    """Of class 1, padded by one more."""
    boxes = torch.tensor([[list(box), [0.0] * 4]])
    return Targets(boxes, torch.tensor([[1, 0]]), torch.tensor([[True, False]]), (1,))


def rows(gt_index: Tensor, targets: Targets) -> list[tuple[int, int, int, list[float]]]:
    """(image, prior, label, box) of every prior that is not ignored; label -1 for a negative."""
    labels, boxes = matched(gt_index, targets, background=-1)
    return [
        (b, p, int(labels[b, p]), boxes[b, p].double().tolist())
        for b in range(len(gt_index))
        for p in range(gt_index.shape[1])
        if gt_index[b, p] != -2
    ]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def plain_entropy(logit: float, target: float) -> float:
    return -target * math.log(sigmoid(logit)) - (1 - target) * math.log(sigmoid(-logit))


def plain_focal(logits: Sequence[float], label: int) -> float:
    """alpha 0.25, gamma 2."""
    total = 0.0
    for k, x in enumerate(logits):
        p = sigmoid(x) if k == label else sigmoid(-x)
        total += (0.25 if k == label else 0.75) * (1 - p) ** 2 * -math.log(p)
    return total


def plain_overlap(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """IoU and generalised IoU."""

    def area(box: Sequence[float]) -> float:
        return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])

    meet = area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    union = area(a) + area(b) - meet
    hull = area([min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])])
    return meet / union, meet / union - (hull - union) / hull


def plain_decode(anchor: Sequence[float], deltas: Sequence[float], stds: Sequence[float]) -> list[float]:
    """Shift of the centre and logarithm of the size."""
    w, h = anchor[2] - anchor[0], anchor[3] - anchor[1]
    dx, dy, dw, dh = (d * s for d, s in zip(deltas, stds, strict=True))
    x, y = (anchor[0] + anchor[2]) / 2 + dx * w, (anchor[1] + anchor[3]) / 2 + dy * h
    w, h = w * math.exp(dw), h * math.exp(dh)
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
