"""One-to-many assignment of the priors of two images of 800 x 1333, beside loops over images as detectors have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from codetr_kernels.assigners import CellGrid, atss_assign, fcos_assign, max_iou_assign, paa_assign
from codetr_kernels.assigners.mixture import level_candidates, separate_reference
from codetr_kernels.assigners.reference import (
    atss_assign_reference,
    fcos_assign_reference,
    max_iou_assign_reference,
)
from codetr_kernels.boxes import pairwise_iou_reference
from torch import Tensor

from codetr.bench.assignment import assigner_loops as loops
from codetr.bench.assignment.boxes import PAIRWISE, boxes
from codetr.bench.assignment.case import CPU, CUDA, OURS, QUICK, Case, Inputs, always, needs
from codetr.bench.assignment.comparing import UNIT, differing
from codetr.bench.problems import IMAGE, image_levels
from codetr.models.parts.priors import AnchorGrid
from codetr.structures import Pyramid

STRIDES = (8, 16, 32, 64)
IMAGES = 2
RPN: dict[str, Any] = {"positive": 0.7, "negative": 0.3, "low_quality": 0.3}
RANGES = ((0.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, float("inf")))
OFFERED: dict[str, Any] = {"positive": 0.1, "negative": 0.1, "low_quality": 0.0}
"""Of `paa_assign`: who is offered to an object."""


def cases() -> list[Case]:
    """20 and 60 objects; RPN's nine anchors a cell in half the size, and fewer of the large ones, on a CPU."""
    everywhere, gpu = frozenset({CPU, CUDA}), frozenset({CUDA})
    sizes = ((20, everywhere | {QUICK}), (60, everywhere))
    return [
        max_iou_case(20, (400, 667), frozenset({CPU, QUICK})),
        max_iou_case(20, IMAGE, gpu),
        max_iou_case(60, IMAGE, gpu),
        *(atss_case(objects, suits) for objects, suits in sizes),
        fcos_case(20, everywhere | {QUICK}),
        fcos_case(60, gpu),
        *(paa_case(objects, suits) for objects, suits in sizes),
    ]


def max_iou_case(objects: int, image: tuple[int, int], suits: frozenset[str]) -> Case:
    def call(function: Callable[..., Tensor], inputs: Inputs) -> Tensor:
        return function(*_four(inputs), **RPN)

    def make(device: torch.device) -> dict[str, Any]:
        return prior_inputs(objects, image, device, AnchorGrid(4.0, 3, (0.5, 1.0, 2.0))) | RPN

    return Case(
        op="assigners",
        name=f"max_iou-{_cells(image) * 9}x{objects}",
        shape=f"{IMAGES} images, {_cells(image) * 9:,} anchors, {objects} objects",
        make=make,
        people={
            OURS: always(lambda inputs: call(max_iou_assign, inputs)),
            "image loop": always(loops.max_iou),
            "reference": always(lambda inputs: call(max_iou_assign_reference, inputs)),
        },
        peer="image loop",
        truth=lambda inputs: (call(max_iou_assign_reference, _wide(inputs)), decided_by_rounding(_wide(inputs))),
        check=lambda assigned, truth: differing(assigned, truth[0], free=truth[1]),
        suits=suits,
    )


def atss_case(objects: int, suits: frozenset[str], *, image: tuple[int, int] = IMAGE) -> Case:
    def reference(inputs: Inputs) -> Tensor:
        return atss_assign_reference(*_four(inputs), level_sizes=inputs["grid"].level_sizes)

    def ours(inputs: Inputs) -> Tensor:
        return atss_assign(*_four(inputs), level_sizes=inputs["grid"].level_sizes, grid=inputs["grid"])

    return Case(
        op="assigners",
        name=f"atss-{_cells(image)}x{objects}",
        shape=f"{IMAGES} images, {_cells(image):,} anchors, {objects} objects",
        make=lambda device: prior_inputs(objects, image, device, AnchorGrid(8.0)),
        people={OURS: always(ours), "image loop": always(loops.atss), "reference": always(reference)},
        peer="image loop",
        truth=lambda inputs: reference(_wide(inputs)),
        check=differing,
        suits=suits,
    )


def fcos_case(objects: int, suits: frozenset[str], *, image: tuple[int, int] = IMAGE) -> Case:
    def call(function: Callable[..., Tensor], inputs: Inputs) -> Tensor:
        where = {"level_sizes": inputs["grid"].level_sizes, "strides": STRIDES, "ranges": RANGES}
        return function(inputs["points"], *_four(inputs)[1:], **where)

    def make(device: torch.device) -> dict[str, Any]:
        inputs = prior_inputs(objects, image, device, AnchorGrid(8.0))
        stride = torch.cat(
            [
                torch.full((size, 1), value, device=device)
                for size, value in zip(inputs["grid"].level_sizes, STRIDES, strict=True)
            ]
        )
        points = (inputs["priors"][:, :2] + inputs["priors"][:, 2:]) / 2 + stride / 2
        return inputs | {"points": points, "stride": stride, "ranges": RANGES}

    return Case(
        op="assigners",
        name=f"fcos-{_cells(image)}x{objects}",
        shape=f"{IMAGES} images, {_cells(image):,} points, {objects} objects",
        make=make,
        people={
            OURS: always(lambda inputs: call(fcos_assign, inputs)),
            "image loop": always(loops.fcos),
            "reference": always(lambda inputs: call(fcos_assign_reference, inputs)),
        },
        peer="image loop",
        truth=lambda inputs: call(fcos_assign_reference, _wide(inputs)),
        check=differing,
        suits=suits,
    )


def paa_case(objects: int, suits: frozenset[str], *, image: tuple[int, int] = IMAGE) -> Case:
    def settings(inputs: Inputs) -> dict[str, Any]:
        return {"num_gts": objects, "level_sizes": inputs["grid"].level_sizes, "topk": 9}

    def make(device: torch.device) -> dict[str, Any]:
        inputs = prior_inputs(objects, image, device, AnchorGrid(8.0))
        offered = max_iou_assign_reference(*_four(inputs), **OFFERED)
        losses = 2 * torch.rand(offered.shape, generator=torch.Generator().manual_seed(1))
        return inputs | {"offered": offered, "losses": losses.to(device)}

    def reference(inputs: Inputs) -> Tensor:
        """As `paa_assign` without kernels."""
        losses, offered = inputs["losses"], inputs["offered"]
        index, counted = level_candidates(losses, offered, **settings(inputs))
        positive = separate_reference(losses.gather(1, index.flatten(1)).view_as(index), counted)
        chosen = torch.zeros_like(offered).scatter_reduce(1, index.flatten(1), positive.long().flatten(1), "amax")
        return torch.where((offered >= 0) & (chosen == 0), -1, offered)

    return Case(
        op="assigners",
        name=f"paa-{_cells(image)}x{objects}",
        shape=f"{IMAGES} images, {_cells(image):,} anchors, {objects} objects",
        make=make,
        people={
            OURS: always(lambda inputs: paa_assign(inputs["losses"], inputs["offered"], **settings(inputs))),
            "image loop": always(loops.paa),
            "image loop, sklearn": needs("sklearn.mixture", loops.paa_with_sklearn, package="scikit-learn"),
            "reference": always(reference),
        },
        peer="image loop",
        truth=lambda inputs: reference(_wide(inputs)),
        check=differing,
        suits=suits,
    )


def decided_by_rounding(wide: Inputs) -> Tensor:
    """(B, P) priors whose object `max_iou_assign` finds by comparing overlaps that are within rounding of each other.

    That is with a threshold, with the overlap of another object, or with another prior's overlap of the same object: an
    object within several anchors of one size overlaps them equally.
    """
    margin = 2 * PAIRWISE * UNIT
    found = []
    for valid, objects, is_object in zip(wide["prior_valid"], wide["gt_boxes"], wide["gt_valid"], strict=True):
        iou = pairwise_iou_reference(wide["priors"], objects).masked_fill(~(valid[:, None] & is_object[None]), -1.0)
        first, second = iou.topk(2, dim=1).values.unbind(1)
        near = (first - second <= margin) & (first >= wide["positive"] - margin)
        for threshold in (wide["positive"], wide["negative"]):
            near = near | ((first - threshold).abs() <= margin)
        top = iou.amax(0)
        equal = (iou >= top - margin) & (top >= wide["low_quality"] - margin)
        found.append(near | (equal & (equal.sum(0) > 1)).any(1))
    return torch.stack(found)


def _cells(image: tuple[int, int]) -> int:
    return sum(height * width for height, width in image_levels(STRIDES, image))


def _four(inputs: Inputs) -> tuple[Tensor, ...]:
    return tuple(inputs[name] for name in ("priors", "prior_valid", "gt_boxes", "gt_valid"))


def _wide(inputs: Inputs) -> Inputs:
    """The same numbers in float64."""
    return {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }


def prior_inputs(objects: int, image: tuple[int, int], device: torch.device, anchors: AnchorGrid) -> dict[str, Any]:
    """Anchors of the image's levels; the second image is a tenth narrower, and the last of its objects are padding."""
    height, width = image
    shapes = image_levels(STRIDES, image)
    sizes = torch.tensor([[height, width], [height, width - width // 10]], dtype=torch.float32)
    maps = tuple(torch.empty(IMAGES, 0, *shape) for shape in shapes)
    priors = anchors.priors(Pyramid(maps, STRIDES, sizes))
    generator = torch.Generator().manual_seed(0)
    gt_boxes = boxes(generator, IMAGES, objects) * (height / 800)
    limits = sizes.flip(1).repeat(1, 2).unsqueeze(1)
    gt_valid = torch.arange(objects) < torch.tensor([[objects], [objects - objects // 5]])
    inputs = {
        "priors": priors.boxes,
        "prior_valid": priors.valid,
        "gt_boxes": torch.minimum(gt_boxes.clamp(min=0), limits) * gt_valid.unsqueeze(2),
        "gt_valid": gt_valid,
    }
    grid = CellGrid(shapes, STRIDES, sizes=sizes.to(device))
    moved = {name: value.to(device) for name, value in inputs.items()}
    return {**moved, "level_sizes": priors.level_sizes, "grid": grid}
