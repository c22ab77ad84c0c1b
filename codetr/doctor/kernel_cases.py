"""Small problems for every operation of codetr_kernels, and what the references in PyTorch make of them.

Inputs are drawn on the CPU in float32, so that every device is given the same. What is expected is computed there in
float64. Boxes have whole pixels, so that decisions (which box is kept, which prior belongs to which object) are those
of exact arithmetic in any precision, and must be equal. Limits are those of the kernels' tests, in units of EPSILON of
the largest number expected, 1 at least.

Dimension key: B images, N boxes or queries, M objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import codetr_kernels
import torch
from codetr_kernels.assigners import CellGrid
from codetr_kernels.assigners.mixture import level_candidates, separate_reference
from codetr_kernels.assigners.reference import (
    atss_assign_reference,
    fcos_assign_reference,
    max_iou_assign_reference,
)
from codetr_kernels.boxes import box_loss_reference, pairwise_giou_reference, pairwise_iou_reference
from codetr_kernels.linear_assignment.reference import linear_assignment_reference
from codetr_kernels.losses import (
    distribution_focal_loss_reference,
    quality_focal_loss_reference,
    sigmoid_focal_loss_rows_reference,
)
from torch import Tensor

EPSILON = 2.0**-23


class Result(NamedTuple):
    """One number or tensor of an operation. limit: how far it may be off, in EPSILON; 0 for decisions."""

    name: str
    found: Tensor
    expected: Tensor
    limit: float = 0.0


Case = Callable[[torch.device], Iterator[Result]]

SHAPES = ((5, 7), (3, 4))


def attention(device: torch.device) -> Iterator[Result]:
    draw = _draws()
    arguments = [torch.randn(2, 47, 2, 8, generator=draw), torch.rand(2, 6, 2, 2, 4, 2, generator=draw) * 1.2 - 0.1]
    arguments.append(torch.rand(2, 6, 2, 2, 4, generator=draw))
    yield from _with_gradients(
        lambda v, x, w: codetr_kernels.deform_attention(v, SHAPES, x, w),
        lambda v, x, w: codetr_kernels.deform_attention_reference(v, SHAPES, x, w),
        dict(zip(("value", "locations", "weights"), arguments, strict=True)),
        device,
        limit=32,
    )


def attention_fused(device: torch.device) -> Iterator[Result]:
    draw = _draws()
    padding = torch.rand(2, 47, generator=draw) < 0.2
    arguments = {
        "value": torch.randn(2, 47, 2, 8, generator=draw),
        "references": torch.rand(2, 6, 2, 4, generator=draw) * 0.8 + 0.1,
        "offsets": torch.randn(2, 6, 2, 2, 4, 2, generator=draw),
        "logits": torch.randn(2, 6, 2, 8, generator=draw),
    }
    yield from _with_gradients(
        lambda v, r, o, w: codetr_kernels.deform_attention_fused(v, SHAPES, r, o, w, padding.to(device)),
        lambda v, r, o, w: codetr_kernels.deform_attention_fused_reference(v, SHAPES, r, o, w, padding),
        arguments,
        device,
        limit=32,
    )


def cost(device: torch.device) -> Iterator[Result]:
    draw = _draws()
    logits, labels = torch.randn(2, 2, 9, 5, generator=draw), torch.randint(0, 5, (2, 3), generator=draw)
    # Sides of at least a quarter, which bounds what divides: the derivation is in the tests of the kernel.
    boxes, targets = (
        torch.cat([torch.rand(*size, 2, generator=draw), 0.25 + 0.5 * torch.rand(*size, 2, generator=draw)], -1)
        for size in ((2, 2, 9), (2, 3))
    )
    weights = {"class_weight": 2.0, "l1_weight": 5.0, "giou_weight": 2.0}
    inputs = (logits, boxes, labels, targets)
    for kind in ("focal", "softmax"):
        settings: dict[str, Any] = {**weights, "class_cost": kind}
        found = codetr_kernels.matching_cost(*(tensor.to(device) for tensor in inputs), **settings)
        expected = codetr_kernels.matching_cost_reference(*map(_widened, inputs), **settings)
        absolute = 494  # BOUND of the kernel's tests; the largest of these costs is above 1
        yield Result(kind, found, expected, limit=absolute / float(expected.abs().max()))


def assignment(device: torch.device) -> Iterator[Result]:
    """Whole costs, whose sums are exact: of equally good assignments any is right, so the totals are compared."""
    costs = torch.randint(0, 1000, (3, 5, 12), generator=_draws()).float()
    counts = torch.tensor([5, 3, 0])
    for repeat in (1, 2):
        taken = codetr_kernels.linear_assignment(costs.to(device), counts.to(device), repeat=repeat).cpu()
        expected, _ = linear_assignment_reference(costs.double(), counts, repeat)
        repeats = "" if repeat == 1 else f" of {repeat} queries each"
        yield Result(f"pairs{repeats}", taken >= 0, expected >= 0)
        yield Result(f"total{repeats}", _total(costs, taken, repeat), _total(costs, expected, repeat))
        distinct = [len(set(row[row >= 0].tolist())) for row in taken]
        yield Result(f"distinct queries{repeats}", torch.tensor(distinct), (taken >= 0).sum(1))


def _total(costs: Tensor, taken: Tensor, repeat: int) -> Tensor:
    rows = costs.double().repeat(1, repeat, 1)
    return (rows.gather(2, taken.clamp(min=0).unsqueeze(2)).squeeze(2) * (taken >= 0)).sum(1)


def overlaps(device: torch.device) -> Iterator[Result]:
    draw = _draws()
    a, b = _boxes(draw, 2, 7), _boxes(draw, 2, 5)
    for name, ours, reference in (
        ("iou", codetr_kernels.pairwise_iou, pairwise_iou_reference),
        ("giou", codetr_kernels.pairwise_giou, pairwise_giou_reference),
    ):
        yield Result(name, ours(a.to(device), b.to(device)), reference(a.double(), b.double()), limit=4)


def box_losses(device: torch.device) -> Iterator[Result]:
    draw = _draws()
    arguments = {"prediction": _boxes(draw, 12), "target": _boxes(draw, 12)}
    for kind in ("iou", "giou", "diou", "ciou"):
        ours = getattr(codetr_kernels, f"{kind}_loss")

        def reference(*boxes: Tensor, kind: Any = kind) -> Tensor:
            return box_loss_reference(*boxes, kind=kind)

        yield from _with_gradients(ours, reference, arguments, device, limit=16, prefix=kind)


def class_losses(device: torch.device) -> Iterator[Result]:
    draw = _draws()
    logits = {"logits": 3 * torch.randn(9, 6, generator=draw)}
    labels = torch.randint(0, 7, (9,), generator=draw)
    quality, weights = torch.rand(9, generator=draw), torch.rand(9, generator=draw)
    forms: tuple[tuple[str, Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...]], ...] = (
        (
            "focal",
            codetr_kernels.sigmoid_focal_loss_rows,
            sigmoid_focal_loss_rows_reference,
            (labels, weights),
        ),
        ("quality", codetr_kernels.quality_focal_loss, quality_focal_loss_reference, (labels, quality, weights)),
        (
            "distribution",
            codetr_kernels.distribution_focal_loss,
            distribution_focal_loss_reference,
            (5 * quality, weights),
        ),
    )
    for name, ours, reference, targets in forms:

        def kernel(x: Tensor, ours: Any = ours, targets: Sequence[Tensor] = targets) -> Tensor:
            found: Tensor = ours(x, *(target.to(device) for target in targets))
            return found

        def plain(x: Tensor, reference: Any = reference, targets: Sequence[Tensor] = targets) -> Tensor:
            expected: Tensor = reference(x, *map(_widened, targets))
            return expected

        yield from _with_gradients(kernel, plain, logits, device, limit=32, prefix=name)


def assigners(device: torch.device) -> Iterator[Result]:
    draw = _draws()
    shapes, strides = ((6, 8), (3, 4)), (8, 16)
    sizes = tuple(height * width for height, width in shapes)
    centres = torch.cat([_centres(*shape, stride) for shape, stride in zip(shapes, strides, strict=True)])
    half = torch.cat([torch.full((size, 1), 1.5 * stride) for size, stride in zip(sizes, strides, strict=True)])
    priors = torch.cat([centres - half, centres + half], -1)
    objects, exists = _boxes(draw, 2, 4, extent=40, least=6, most=32), torch.tensor([[True] * 4, [True, False] * 2])
    valid = torch.ones(2, len(priors), dtype=torch.bool)
    scene, points = (priors, valid, objects, exists), (centres, valid, objects, exists)
    iou: dict[str, Any] = {"positive": 0.5, "negative": 0.4, "low_quality": 0.0}
    atss: dict[str, Any] = {"level_sizes": sizes, "grid": CellGrid(shapes, strides)}
    fcos: dict[str, Any] = {"level_sizes": sizes, "strides": strides, "ranges": ((-1.0, 16.0), (16.0, 1e8))}
    for name, ours, reference, inputs, settings in (
        ("max_iou", codetr_kernels.max_iou_assign, max_iou_assign_reference, scene, iou),
        ("atss", codetr_kernels.atss_assign, atss_assign_reference, scene, atss),
        ("fcos", codetr_kernels.fcos_assign, fcos_assign_reference, points, fcos),
    ):
        found = ours(*(tensor.to(device) for tensor in inputs), **settings)
        yield Result(name, found, reference(*inputs, **settings))
    offered = torch.randint(-2, 4, valid.shape, generator=draw)
    losses = torch.rand(valid.shape, generator=draw)
    paa: dict[str, Any] = {"num_gts": 4, "level_sizes": sizes}
    found = codetr_kernels.paa_assign(losses.to(device), offered.to(device), **paa)
    yield Result("paa", found, _paa_reference(losses, offered, **paa))


def _paa_reference(losses: Tensor, offered: Tensor, *, num_gts: int, level_sizes: tuple[int, ...]) -> Tensor:
    index, counted = level_candidates(losses, offered, num_gts=num_gts, level_sizes=level_sizes, topk=9)
    positive = separate_reference(losses.gather(1, index.flatten(1)).view_as(index), counted)
    kept = torch.zeros(offered.shape, dtype=torch.bool)
    for image in range(len(offered)):
        kept[image, index[image][positive[image]]] = True
    return torch.where((offered >= 0) & ~kept, -1, offered)


def suppression(device: torch.device) -> Iterator[Result]:
    draw = _draws()
    boxes, groups = _boxes(draw, 2, 30), torch.randint(0, 2, (2, 30), generator=draw)
    scores = torch.stack([torch.randperm(30, generator=draw) for _ in range(2)]) / 32 + 0.05
    inputs = (boxes, scores, groups, torch.rand(2, 30, generator=draw) < 0.9)
    there = tuple(tensor.to(device) for tensor in inputs)
    settings: dict[str, Any] = {"iou_threshold": 0.5, "limit": 30}
    found = codetr_kernels.batched_nms(*there, **settings)
    expected = codetr_kernels.batched_nms_reference(*inputs, **settings)
    yield from (Result(*row) for row in zip(("kept boxes", "number kept"), found, expected, strict=True))
    for method in ("linear", "gaussian"):
        settings = {"iou_threshold": 0.3, "limit": 8, "method": method}
        soft = codetr_kernels.soft_nms(*there, **settings)
        wanted = codetr_kernels.soft_nms_reference(*map(_widened, inputs), **settings)
        yield Result(f"{method} boxes", soft[0], wanted[0])
        yield Result(f"{method} scores", soft[1], wanted[1], limit=80)  # FLOAT32 of the kernel's tests


CASES: dict[str, Case] = {
    "deform_attention": attention,
    "deform_attention_fused": attention_fused,
    "matching_cost": cost,
    "linear_assignment": assignment,
    "boxes": overlaps,
    "box losses": box_losses,
    "class losses": class_losses,
    "assigners": assigners,
    "nms": suppression,
}
"""Every public operation, by what a person calls them."""


def _with_gradients(
    ours: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    arguments: dict[str, Tensor],
    device: torch.device,
    *,
    limit: float,
    prefix: str = "output",
) -> Iterator[Result]:
    """The output, and the gradient of each argument."""
    here = [tensor.to(device).requires_grad_() for tensor in arguments.values()]
    exact = [tensor.double().requires_grad_() for tensor in arguments.values()]
    found, expected = ours(*here), reference(*exact)
    yield Result(prefix, found.detach(), expected.detach(), limit)
    weight = torch.linspace(-1, 2, expected.numel()).view(expected.shape)
    gradients = torch.autograd.grad(found, here, weight.to(device))
    wanted = torch.autograd.grad(expected, exact, weight.double())
    for name, a, b in zip(arguments, gradients, wanted, strict=True):
        yield Result(f"{prefix}, gradient of {name}", a, b, limit)


def _draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _widened(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _boxes(draw: torch.Generator, *size: int, extent: int = 20, least: int = 4, most: int = 16) -> Tensor:
    """xyxy, of whole pixels."""
    corner = torch.randint(0, extent, (*size, 2), generator=draw)
    return torch.cat([corner, corner + torch.randint(least, most + 1, (*size, 2), generator=draw)], -1).float()


def _centres(height: int, width: int, stride: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1).float() * stride
