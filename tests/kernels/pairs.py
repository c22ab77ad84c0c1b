"""Small problems of the matching cost, and the cost of one pair by plain arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from codetr_kernels import matching_cost
from samples import DEVICE
from torch import Tensor

WEIGHTS = {"class_weight": 2.0, "l1_weight": 5.0, "giou_weight": 2.0}


@dataclass
class Pairs:
    """Inputs of `matching_cost`. num_objects: not all of M."""

    logits: Tensor
    boxes: Tensor
    labels: Tensor
    target_boxes: Tensor
    num_objects: Tensor
    valid: Tensor

    def cost(self, **settings: object) -> Tensor:
        """With Deformable DETR's weights, of all objects and queries unless `settings` say otherwise."""
        given = (self.logits, self.boxes, self.labels, self.target_boxes)
        return matching_cost(*given, **WEIGHTS | settings)  # type: ignore[arg-type]


def pairs(
    *,
    layers: int = 2,
    images: int = 2,
    queries: int = 4,
    objects: int = 3,
    classes: int = 5,
    dtype: torch.dtype = torch.float32,
) -> Pairs:
    """Boxes of sides from 0.25 to 0.75 with centres in the image; logits up to 2; each image its own invalid query."""
    generator = torch.Generator().manual_seed(5)

    def boxes(*shape: int) -> Tensor:
        box = torch.rand(*shape, 4, generator=generator)
        return torch.cat([box[..., :2], 0.25 + 0.5 * box[..., 2:]], -1).to(DEVICE, dtype)

    image = torch.arange(images, device=DEVICE)
    return Pairs(
        torch.randn(layers, images, queries, classes, generator=generator).clamp(-2, 2).to(DEVICE, dtype),
        boxes(layers, images, queries),
        torch.randint(0, classes, (images, objects), generator=generator).to(DEVICE),
        boxes(images, objects),
        (objects - image).clamp(min=0),
        torch.arange(queries, device=DEVICE) != 1 + image[:, None],
    )


def parts(problem: Pairs, dtype: torch.dtype) -> Pairs:
    """The same numbers in another type."""
    tensors = (problem.logits, problem.boxes, problem.target_boxes)
    logits, boxes, target_boxes = (tensor.detach().to(dtype) for tensor in tensors)
    return Pairs(logits, boxes, problem.labels, target_boxes, problem.num_objects, problem.valid)


def pair_cost(problem: Pairs, row: tuple[int, int], item: int, query: int, class_cost: str) -> float:
    """The cost of one object and one query of (layer, image), number by number."""
    layer, image = row
    a = problem.boxes[layer, image, query].tolist()
    b = problem.target_boxes[image, item].tolist()
    by_class = class_cost_of(problem.logits[layer, image, query].tolist(), int(problem.labels[image, item]), class_cost)
    distance = sum(abs(x - y) for x, y in zip(a, b, strict=True))
    return 2.0 * by_class + 5.0 * distance - 2.0 * _giou(a, b)


def class_cost_of(logits: list[float], label: int, class_cost: str) -> float:
    if class_cost == "softmax":
        return -math.exp(logits[label]) / sum(map(math.exp, logits))
    p = 1 / (1 + math.exp(-logits[label]))
    return 0.25 * (1 - p) ** 2 * -math.log(p) - 0.75 * p**2 * -math.log(1 - p)


def _giou(a: list[float], b: list[float]) -> float:
    overlap, hull = 1.0, 1.0
    for axis in range(2):
        low = [box[axis] - box[2 + axis] / 2 for box in (a, b)]
        high = [box[axis] + box[2 + axis] / 2 for box in (a, b)]
        overlap *= max(0.0, min(high) - max(low))
        hull *= max(high) - min(low)
    union = a[2] * a[3] + b[2] * b[3] - overlap
    return overlap / union - (hull - union) / hull
