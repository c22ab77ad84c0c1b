"""Matching as others do it: DETR's way through scipy, image by image and layer by layer, and packages for it.

All give the query of each object, (P, M) int64 on the device of the inputs, -1 for padding, which is timed too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from codetr.bench.assignment.case import Inputs, Run

ALPHA, GAMMA = 0.25, 2.0


def scipy_by_layers(optimize: Any) -> Run:
    """One copy to the host for each layer, one call for each image, as DETR's losses do."""

    def run(inputs: Inputs) -> Tensor:
        cost, counts, images = inputs["cost"], inputs["counts"], inputs["images"]
        found = []
        for first in range(0, len(cost), images):
            host = cost[first : first + images].cpu()
            found.append(_solved(host, counts[first : first + images], optimize.linear_sum_assignment).to(cost.device))
        return torch.cat(found)

    return run


def scipy_in_one_copy(optimize: Any) -> Run:
    """One copy to the host and one back, the best that scipy allows."""

    def run(inputs: Inputs) -> Tensor:
        cost = inputs["cost"]
        return _solved(cost.cpu(), inputs["counts"], optimize.linear_sum_assignment).to(cost.device)

    return run


def torch_linear_assignment(module: Any) -> Run:
    """All problems in one call; padded objects cost nothing anywhere, and take what is left."""

    def run(inputs: Inputs) -> Tensor:
        cost = inputs["cost"]
        is_padding = torch.arange(cost.shape[1], device=cost.device) >= inputs["num_objects"].unsqueeze(1)
        if any(count < cost.shape[1] for count in inputs["counts"]):
            cost = cost.masked_fill(is_padding.unsqueeze(2), 0.0)
        query: Tensor = module.batch_linear_assignment(cost)
        return query.long().masked_fill(is_padding, -1)

    return run


def lapx(lap: Any) -> Run:
    """All problems in one call on the host's threads: the solver for rectangles where lapx has it."""
    solve = lap.lapjvr_batch if hasattr(lap, "lapjvr_batch") else lap.lapjvx_batch

    def run(inputs: Inputs) -> Tensor:
        cost, counts = inputs["cost"], inputs["counts"]
        host = cost.cpu().numpy().copy()
        for matrix, count in zip(host, counts, strict=True):
            matrix[count:] = 0
        rows, columns = solve(host, extend_cost=True, return_cost=False)
        query = torch.full(cost.shape[:2], -1)
        for problem, (row, column) in enumerate(zip(rows, columns, strict=True)):
            query[problem, torch.as_tensor(row)] = torch.as_tensor(column)
            query[problem, counts[problem] :] = -1
        return query.to(cost.device)

    return run


def detr_style(optimize: Any) -> Run:
    """Layer by layer: costs of all queries of the batch to all its objects, to the host, a call for each image."""

    def run(inputs: Inputs) -> Tensor:
        counts = inputs["counts"]
        found = []
        for layer in range(len(inputs["logits"])):
            host = _cost_to_all(inputs, layer).unflatten(0, (len(counts), -1)).cpu()
            blocks = [block[image] for image, block in enumerate(host.split(counts, dim=2))]
            pairs = [optimize.linear_sum_assignment(block.numpy()) for block in blocks]
            found.append(_queries(pairs, max(counts)))
        return torch.cat(found).to(inputs["logits"].device)

    return run


def detr_style_costs(inputs: Inputs) -> Tensor:
    """The costs alone, (P, M, N), of images with equally many objects."""
    images = len(inputs["counts"])
    layers = [_cost_to_all(inputs, layer) for layer in range(len(inputs["logits"]))]
    blocks = torch.stack(layers).unflatten(2, (images, -1)).unflatten(1, (images, -1))  # (L, B, N, B, M)
    own = torch.arange(images, device=blocks.device)
    return blocks[:, own, :, own].transpose(0, 1).transpose(2, 3).flatten(0, 1)


def transformers(module: Any) -> Run:
    """Deformable DETR's matcher of the library, called for each layer."""
    matcher = module.DeformableDetrHungarianMatcher(class_cost=2.0, bbox_cost=5.0, giou_cost=2.0)

    def run(inputs: Inputs) -> Tensor:
        targets = [
            {"class_labels": labels, "boxes": boxes}
            for labels, boxes in zip(inputs["labels"], inputs["target_boxes"], strict=True)
        ]
        found = []
        for logits, boxes in zip(inputs["logits"], inputs["boxes"], strict=True):
            pairs = matcher({"logits": logits, "pred_boxes": boxes}, targets)
            found.append(_queries(pairs, max(inputs["counts"])))
        return torch.cat(found).to(inputs["logits"].device)

    return run


def _cost_to_all(inputs: Inputs, layer: int) -> Tensor:
    """(B * N, sum of M): every query of the batch to every object of it, those of other images too."""
    score = inputs["logits"][layer].flatten(0, 1).sigmoid()
    boxes = inputs["boxes"][layer].flatten(0, 1)
    counts = inputs["counts"]
    labels = torch.cat([row[:count] for row, count in zip(inputs["labels"], counts, strict=True)])
    targets = torch.cat([row[:count] for row, count in zip(inputs["target_boxes"], counts, strict=True)])
    yes = ALPHA * (1 - score) ** GAMMA * -(score + 1e-8).log()
    no = (1 - ALPHA) * score**GAMMA * -(1 - score + 1e-8).log()
    by_class = yes[:, labels] - no[:, labels]
    distance = torch.cdist(boxes, targets, p=1)
    giou = generalized_box_iou(box_convert(boxes, "cxcywh", "xyxy"), box_convert(targets, "cxcywh", "xyxy"))
    return 2.0 * by_class + 5.0 * distance - 2.0 * giou


def _solved(cost: Tensor, counts: Sequence[int], solve: Callable[..., Any]) -> Tensor:
    query = torch.full(cost.shape[:2], -1)
    for problem, (matrix, count) in enumerate(zip(cost, counts, strict=True)):
        rows, columns = solve(matrix[:count].numpy())
        query[problem, torch.as_tensor(rows)] = torch.as_tensor(columns)
    return query


def _queries(pairs: Sequence[tuple[Any, Any]], objects: int) -> Tensor:
    """(B, M) of each image's query and object numbers."""
    found = torch.full((len(pairs), objects), -1)
    for image, (query, number) in enumerate(pairs):
        found[image, torch.as_tensor(number)] = torch.as_tensor(query)
    return found
