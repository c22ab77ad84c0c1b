"""Overlaps of pairs of boxes, and losses of aligned boxes, beside torchvision.

Limits, in roundings of float32 (`UNIT`) as a share of the largest number. Sides are differences of given coordinates (1
rounding), areas products (3), a union a sum of areas that are at most twice as large (10), a quotient of both 14 to 16;
the hull adds as much: 32 for overlaps. A gradient is a sum of four such quotients times a side over an area: 128.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from codetr_kernels.boxes import (
    box_loss_reference,
    ciou_loss,
    giou_loss,
    pairwise_giou,
    pairwise_giou_reference,
    pairwise_iou,
    pairwise_iou_reference,
)
from torch import Tensor
from torchvision.ops import box_iou, complete_box_iou_loss, generalized_box_iou, generalized_box_iou_loss

from codetr.bench.assignment.case import CPU, CUDA, OURS, QUICK, Case, Inputs, always, compiled
from codetr.bench.assignment.comparing import UNIT, beyond

PAIRWISE, ALIGNED = 32, 128

PAIRS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], Callable[..., Tensor]]] = {
    "pairwise_iou": (pairwise_iou, pairwise_iou_reference, box_iou),
    "pairwise_giou": (pairwise_giou, pairwise_giou_reference, generalized_box_iou),
}
LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "giou": (giou_loss, generalized_box_iou_loss),
    "ciou": (ciou_loss, complete_box_iou_loss),
}


def cases() -> list[Case]:
    """Pairs of a matching and of an assignment, and losses of the boxes of a step."""
    everywhere, gpu = frozenset({CPU, CUDA}), frozenset({CUDA})
    return [
        *(pairs_case(name, 2, 900, 300, everywhere | {QUICK}) for name in PAIRS),
        pairs_case("pairwise_iou", 2, 22223, 60, gpu),
        *(loss_case(kind, 10_000, everywhere | {QUICK}) for kind in LOSSES),
        loss_case("giou", 200_000, gpu),
    ]


def pairs_case(name: str, images: int, first: int, second: int, suits: frozenset[str]) -> Case:
    ours, reference, torchvision = PAIRS[name]

    def by_image(inputs: Inputs) -> Tensor:
        return torch.stack([torchvision(a, b) for a, b in zip(inputs["a"], inputs["b"], strict=True)])

    return Case(
        op="boxes",
        name=f"{name}-{images}x{first}x{second}",
        shape=f"{images} images, {first} x {second} boxes",
        make=lambda device: _pair_inputs(images, first, second, device),
        people={
            OURS: always(lambda inputs: ours(inputs["a"], inputs["b"])),
            "torchvision": always(by_image),
            "reference": always(lambda inputs: reference(inputs["a"], inputs["b"])),
            "compiled": compiled(reference, lambda f, inputs: f(inputs["a"], inputs["b"])),
        },
        peer="torchvision",
        truth=lambda inputs: reference(inputs["a"].double(), inputs["b"].double()),
        check=lambda overlaps, truth: beyond({"overlaps": (overlaps, truth)}, limit=PAIRWISE * UNIT),
        suits=suits,
    )


def loss_case(kind: str, pairs: int, suits: frozenset[str]) -> Case:
    ours, torchvision = LOSSES[kind]

    def reference(prediction: Tensor, target: Tensor) -> Tensor:
        return box_loss_reference(prediction, target, kind=kind)  # type: ignore[arg-type]

    return Case(
        op="boxes",
        name=f"{kind}_loss-{pairs}",
        shape=f"{pairs:,} pairs, gradient of the prediction",
        make=lambda device: _loss_inputs(pairs, device),
        people={
            OURS: always(lambda inputs: ours(inputs["prediction"], inputs["target"])),
            "torchvision": always(lambda inputs: torchvision(inputs["prediction"], inputs["target"])),
            "reference": always(lambda inputs: reference(inputs["prediction"], inputs["target"])),
            "compiled": compiled(reference, lambda f, inputs: f(inputs["prediction"], inputs["target"])),
        },
        peer="torchvision",
        truth=lambda inputs: true_gradients(
            lambda wide: reference(wide["prediction"], wide["target"]), inputs, ("prediction",)
        ),
        check=lambda found, truth: beyond(
            dict(zip(("loss", "gradient"), zip(found, truth, strict=True), strict=True)), limit=ALIGNED * UNIT
        ),
        gradients=("prediction",),
        suits=suits,
    )


def true_gradients(function: Callable[[Inputs], Tensor], inputs: Inputs, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    """(output, *gradients) of a reference in float64, on the inputs as they were rounded."""
    wide = {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }
    leaves = {name: wide[name].requires_grad_() for name in names}
    output = function({**wide, **leaves})
    return (output.detach(), *torch.autograd.grad(output, list(leaves.values()), wide["grad"]))


def boxes(generator: torch.Generator, *shape: int) -> Tensor:
    """(*shape, 4) xyxy in an image of 800 x 1333 pixels, sides of 16 to 400 pixels, small ones more often."""
    centre = torch.rand(*shape, 2, generator=generator) * torch.tensor([1333.0, 800.0])
    half = 8 * 25 ** torch.rand(*shape, 2, generator=generator)
    return torch.cat([centre - half, centre + half], -1)


def _pair_inputs(images: int, first: int, second: int, device: torch.device) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {"a": boxes(generator, images, first).to(device), "b": boxes(generator, images, second).to(device)}


def _loss_inputs(pairs: int, device: torch.device) -> dict[str, Any]:
    """Predictions a fifth of a side away from their targets."""
    generator = torch.Generator().manual_seed(0)
    target = boxes(generator, pairs)
    sides = (target[:, 2:] - target[:, :2]).repeat(1, 2)
    prediction = target + 0.2 * sides * (torch.rand(pairs, 4, generator=generator) - 0.5)
    grad = torch.rand(pairs, generator=generator)
    return {"prediction": prediction.to(device), "target": target.to(device), "grad": grad.to(device)}
