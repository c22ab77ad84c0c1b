"""Suppression of a batch, beside torchvision's image by image."""

from __future__ import annotations

from typing import Any

import torch
from codetr_kernels.nms import batched_nms, batched_nms_reference, soft_nms, soft_nms_reference
from torch import Tensor
from torchvision.ops import batched_nms as torchvision_nms

from codetr.bench.assignment.boxes import PAIRWISE, boxes
from codetr.bench.assignment.case import CPU, CUDA, OURS, QUICK, Case, Inputs, always
from codetr.bench.assignment.comparing import UNIT

BLOCK = 8192
"""Boxes whose overlaps with all kept ones are held at once by the check."""

Kept = tuple[Tensor, Tensor]


def cases() -> list[Case]:
    """Proposals of a two-stage head in five levels, and detections of eighty classes."""
    return [
        greedy_case("rpn", 2, 17_000, 5, 0.7, 1000, frozenset({CPU, CUDA})),
        greedy_case("classes", 2, 80_000, 80, 0.6, 100, frozenset({CUDA})),
        greedy_case("classes", 2, 8_000, 80, 0.6, 100, frozenset({CPU, QUICK})),
        soft_case(2, 1000, 300, frozenset({CPU, CUDA, QUICK})),
    ]


def greedy_case(
    name: str, images: int, count: int, groups: int, threshold: float, limit: int, suits: frozenset[str]
) -> Case:
    settings: dict[str, Any] = {"iou_threshold": threshold, "limit": limit}
    return Case(
        op="nms",
        name=f"batched_nms-{name}-{images}x{count}",
        shape=f"{images} images, {count:,} boxes in {groups} groups, IoU {threshold}, at most {limit}",
        make=lambda device: _inputs(images, count, groups, device) | settings,
        people={
            OURS: always(lambda inputs: batched_nms(*_four(inputs), **settings)),
            "torchvision": always(_torchvision),
            "reference": always(lambda inputs: batched_nms_reference(*_four(inputs), **settings)),
        },
        peer="torchvision",
        truth=lambda inputs: inputs,
        check=check_greedy,
        suits=suits,
    )


def soft_case(images: int, count: int, limit: int, suits: frozenset[str]) -> Case:
    return Case(
        op="nms",
        name=f"soft_nms-{images}x{count}",
        shape=f"{images} images, {count:,} boxes in 5 groups, linear, at most {limit}",
        make=lambda device: _inputs(images, count, 5, device),
        people={
            OURS: always(lambda inputs: soft_nms(*_four(inputs), limit=limit)),
            "reference": always(lambda inputs: soft_nms_reference(*_four(inputs), limit=limit)),
        },
        peer="reference",
        truth=lambda inputs: soft_nms_reference(inputs["boxes"].double(), *_four(inputs)[1:], limit=limit),
        check=check_soft,
        suits=suits,
    )


def _torchvision(inputs: Inputs) -> Kept:
    """One call for each image, padded to one length."""
    limit = inputs["limit"]
    index = torch.zeros(len(inputs["boxes"]), limit, dtype=torch.int64, device=inputs["boxes"].device)
    kept = torch.zeros_like(index, dtype=torch.bool)
    for image, (box, score, group, valid) in enumerate(zip(*_four(inputs), strict=True)):
        place = valid.nonzero()[:, 0]
        found = torchvision_nms(box[place], score[place], group[place], inputs["iou_threshold"])[:limit]
        index[image, : len(found)] = place[found]
        kept[image, : len(found)] = True
    return index, kept


def check_greedy(result: Kept, inputs: Inputs) -> str | None:
    """What greedy suppression is, in float64: kept boxes overlap no better kept one of their group, and every box that
    is better than the last kept one, all if there is room, is overlapped by a better kept one.

    An overlap within 32 roundings of the threshold, where float32 decides either way, counts as either.
    """
    index, kept = result
    for image, (box, score, group, valid) in enumerate(zip(*_four(inputs), strict=True)):
        count = int(kept[image].sum())
        chosen = index[image, :count]
        fault = _image_fault(box.double(), score, group, valid, chosen, inputs["iou_threshold"], inputs["limit"])
        if fault is None and not bool(kept[image, :count].all()):
            fault = "kept slots are not the first ones"
        if fault is not None:
            return f"image {image}: {fault}"
    return None


def _image_fault(
    box: Tensor, score: Tensor, group: Tensor, valid: Tensor, chosen: Tensor, threshold: float, limit: int
) -> str | None:
    margin = PAIRWISE * UNIT
    own = score[chosen]
    if not bool(valid[chosen].all()) or len(chosen.unique()) < len(chosen) or bool((own[1:] > own[:-1]).any()):
        return "kept are boxes that are not valid, one twice, or not by falling score"
    is_settled = torch.zeros_like(valid)
    for start in range(0, len(box), BLOCK):
        part = slice(start, start + BLOCK)
        same = group[part, None] == group[None, chosen]
        better = (score[part, None] <= own[None]) & (torch.arange(len(box), device=box.device)[part, None] != chosen)
        iou = _iou(box[part], box[chosen])
        is_settled[part] = (same & better & (iou > threshold - margin)).any(1)
        of_kept = torch.isin(torch.arange(len(box), device=box.device)[part], chosen)
        if bool((same & better & (iou > threshold + margin) & of_kept[:, None]).any()):
            return "a kept box overlaps a better one"
    is_settled[chosen] = True
    lowest = own.min() if len(chosen) == limit else score.new_tensor(-torch.inf)
    missing = int((valid & ~is_settled & (score > lowest)).sum())
    return f"{missing} boxes are missing" if missing else None


def check_soft(result: tuple[Tensor, Tensor, Tensor], truth: tuple[Tensor, Tensor, Tensor]) -> str | None:
    """Scores within rounding of as many decays as there are picks, and the same boxes where no other is as near.

    A score is a product of up to as many factors 1 - IoU as there are picks, each off by 32 roundings.
    """
    (index, score, kept), (true_index, true_score, true_kept) = result, truth
    if not bool((kept == true_kept).all()):
        return f"{int(kept.sum())} boxes instead of {int(true_kept.sum())}"
    limit = PAIRWISE * UNIT * score.shape[1]
    error = float((score.double() - true_score.double()).abs().max())
    if not error <= limit:
        return f"scores: error {error:.1e}, limit {limit:.1e}"
    gap = (true_score[:, 1:] - true_score[:, :-1]).abs() <= 2 * limit
    near = torch.zeros_like(kept)
    near[:, 1:] |= gap
    near[:, :-1] |= gap
    wrong = int(((index != true_index) & ~near & kept).sum())
    return f"{wrong} picks differ" if wrong else None


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """(N, D) in the type of the boxes, which have an area."""
    sides = torch.minimum(a[:, None, 2:], b[None, :, 2:]) - torch.maximum(a[:, None, :2], b[None, :, :2])
    inter = sides.clamp(min=0).prod(-1)
    area, other = ((box[:, 2:] - box[:, :2]).prod(-1) for box in (a, b))
    return inter / (area[:, None] + other[None] - inter)


def _four(inputs: Inputs) -> tuple[Tensor, ...]:
    return tuple(inputs[name] for name in ("boxes", "scores", "groups", "valid"))


def _inputs(images: int, count: int, groups: int, device: torch.device) -> dict[str, Any]:
    """Boxes around one place for every twenty of them, as a detector gives them, a tenth of them not valid."""
    generator = torch.Generator().manual_seed(0)
    objects = boxes(generator, images, max(1, count // 20))
    near = torch.randint(objects.shape[1], (images, count), generator=generator)
    chosen = objects.gather(1, near.unsqueeze(-1).expand(-1, -1, 4))
    sides = (chosen[..., 2:] - chosen[..., :2]).repeat(1, 1, 2)
    inputs = {
        "boxes": chosen + 0.3 * sides * (torch.rand(chosen.shape, generator=generator) - 0.5),
        "scores": torch.rand(images, count, generator=generator),
        "groups": torch.randint(groups, (images, count), generator=generator),
        "valid": torch.rand(images, count, generator=generator) < 0.9,
    }
    return {name: value.to(device) for name, value in inputs.items()}
