"""Bipartite matching: the assignment alone, the cost alone, and both as a training step has them.

Dimension key: L layers, B images, N queries, K classes, M objects, P = L * B problems.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from codetr_kernels.linear_assignment import linear_assignment
from codetr_kernels.matching_cost import matching_cost, matching_cost_reference
from torch import Tensor

from codetr.bench.assignment import matching_peers as peers
from codetr.bench.assignment.case import CPU, CUDA, OURS, QUICK, Case, Inputs, always, compiled, needs
from codetr.bench.assignment.comparing import UNIT, beyond

STEP = 2.0**-9
"""Costs of the assignment alone are multiples of it, below 2**5: twice 300 rows of them stay below 2**24 steps, so
every sum that a float32 solver makes is exact, and its total has to be the least one to the last bit."""

WEIGHTS: dict[str, Any] = {"class_weight": 2.0, "l1_weight": 5.0, "giou_weight": 2.0}
"""Of Deformable DETR and all that follow it."""


@dataclass(frozen=True)
class Optimum:
    """What an assignment is judged by. cost: (P, M, N) float64 on the host. totals, limits: (P,), the least total of
    each problem and how far above it is still within rounding."""

    cost: Tensor
    counts: tuple[int, ...]
    totals: Tensor
    limits: Tensor


def cases() -> list[Case]:
    """The sizes of Co-DINO's step (2 images, 7 sets), fewer queries, many problems, ties, and a two-stage encoder."""
    everywhere, gpu = frozenset({CPU, CUDA}), frozenset({CUDA})
    return [
        assignment_case(14, 20, 300, everywhere | {QUICK}),
        assignment_case(14, 60, 900, everywhere),
        assignment_case(14, 100, 900, everywhere),
        assignment_case(14, 300, 900, everywhere),
        assignment_case(224, 100, 300, gpu),
        assignment_case(14, 100, 300, everywhere | {QUICK}, ties=True),
        assignment_case(2, 60, 22223, gpu),
        cost_case(2, 2, 300, 80, 20, frozenset({QUICK})),
        cost_case(7, 2, 900, 80, 60, everywhere),
        chain_case(2, 2, 300, 80, 20, frozenset({QUICK})),
        chain_case(7, 2, 900, 80, 60, everywhere),
        chain_case(7, 2, 900, 80, 300, gpu),
    ]


def assignment_case(problems: int, objects: int, queries: int, suits: frozenset[str], *, ties: bool = False) -> Case:
    shape = f"{problems} problems of {objects} objects and {queries} queries"
    return Case(
        op="linear_assignment",
        name=f"assignment-{problems}x{objects}x{queries}{'-ties' if ties else ''}",
        shape=f"{shape}, integer costs 0 to 9, some objects padding" if ties else shape,
        make=lambda device: assignment_inputs(problems, objects, queries, device, ties=ties),
        people={
            OURS: always(lambda inputs: linear_assignment(inputs["cost"], inputs["num_objects"])),
            "scipy": needs("scipy.optimize", peers.scipy_by_layers, package="scipy"),
            "scipy, one copy": needs("scipy.optimize", peers.scipy_in_one_copy, package="scipy"),
            "torch-linear-assignment": needs(
                "torch_linear_assignment", peers.torch_linear_assignment, package="torch-linear-assignment"
            ),
            "lapx": needs("lap", peers.lapx, package="lapx"),
        },
        peer="scipy",
        truth=lambda inputs: optimum(inputs["cost"], inputs["counts"], error=0.0),
        check=check_assignment,
        suits=suits,
    )


def cost_case(layers: int, images: int, queries: int, classes: int, objects: int, suits: frozenset[str]) -> Case:
    return Case(
        op="matching_cost",
        name=f"cost-{layers}x{images}x{queries}x{objects}",
        shape=_shape(layers, images, queries, classes, objects),
        make=lambda device: step_inputs(layers, images, queries, classes, objects, device),
        people={
            OURS: always(_our_cost),
            "detr-style": always(peers.detr_style_costs),
            "reference": always(lambda inputs: matching_cost_reference(*_arguments(inputs), **WEIGHTS)),
            "compiled": compiled(matching_cost_reference, lambda f, inputs: f(*_arguments(inputs), **WEIGHTS)),
        },
        peer="detr-style",
        truth=_true_cost,
        check=lambda cost, truth: beyond({"cost": (cost, truth)}, limit=COST_ERROR * UNIT),
        suits=suits,
    )


def chain_case(layers: int, images: int, queries: int, classes: int, objects: int, suits: frozenset[str]) -> Case:
    return Case(
        op="matching_cost",
        name=f"matching-{layers}x{images}x{queries}x{objects}",
        shape=f"cost and assignment, {_shape(layers, images, queries, classes, objects)}",
        make=lambda device: step_inputs(layers, images, queries, classes, objects, device),
        people={
            OURS: always(lambda inputs: linear_assignment(_our_cost(inputs), inputs["num_objects"].repeat(layers))),
            "detr-style": needs("scipy.optimize", peers.detr_style, package="scipy"),
            "transformers": needs("transformers.loss.loss_deformable_detr", peers.transformers, package="transformers"),
        },
        peer="detr-style",
        truth=lambda inputs: optimum(_true_cost(inputs), inputs["counts"] * layers, error=COST_ERROR * UNIT),
        check=check_assignment,
        suits=suits,
    )


COST_ERROR = 64
"""Roundings of a cost, as a share of the largest: some ten of each of its terms, whose absolute values add up to no
more than four times the largest sum, and the 1e-8 that others add to probabilities."""


def _shape(layers: int, images: int, queries: int, classes: int, objects: int) -> str:
    return f"{layers} layers x {images} images, {queries} queries, {classes} classes, {objects} objects"


def _arguments(inputs: Inputs) -> tuple[Tensor, ...]:
    return tuple(inputs[name] for name in ("logits", "boxes", "labels", "target_boxes", "num_objects"))


def _our_cost(inputs: Inputs) -> Tensor:
    return matching_cost(*_arguments(inputs), **WEIGHTS)


def _true_cost(inputs: Inputs) -> Tensor:
    wide = {name: inputs[name].double() for name in ("logits", "boxes", "target_boxes")}
    return matching_cost_reference(*_arguments({**inputs, **wide}), **WEIGHTS)


def assignment_inputs(problems: int, objects: int, queries: int, device: torch.device, *, ties: bool) -> Inputs:
    """Costs of queries half of which are near an object, so that objects compete; or integers, and padded objects."""
    generator = torch.Generator().manual_seed(0)
    if ties:
        cost = torch.randint(10, (problems, objects, queries), generator=generator).float()
        counts = tuple(objects - objects * (problem % 3) // 3 for problem in range(problems))
    else:
        step = _host_inputs(1, problems, queries, 1, objects, generator)
        cost = matching_cost_reference(*_arguments(step), **WEIGHTS)
        cost = (cost / STEP).round().clamp(-(2**14), 2**14) * STEP
        counts = (objects,) * problems
    # Two images a layer, as far as there are two.
    num_objects = torch.tensor(counts)
    return {
        "cost": cost.to(device),
        "num_objects": num_objects.to(device),
        "counts": counts,
        "images": min(2, problems),
    }


def step_inputs(
    layers: int, images: int, queries: int, classes: int, objects: int, device: torch.device
) -> dict[str, Any]:
    """Predictions of every layer, half of them near an object, and as many objects in every image."""
    inputs = _host_inputs(layers, images, queries, classes, objects, torch.Generator().manual_seed(0))
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def _host_inputs(
    layers: int, images: int, queries: int, classes: int, objects: int, generator: torch.Generator
) -> dict[str, Any]:
    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    targets = torch.cat([0.1 + 0.8 * uniform(images, objects, 2), 0.02 + 0.28 * uniform(images, objects, 2)], -1)
    boxes = torch.cat([uniform(layers, images, queries, 2), 0.02 + 0.28 * uniform(layers, images, queries, 2)], -1)
    near = torch.randint(objects, (layers, images, queries // 2), generator=generator)
    chosen = targets.expand(layers, -1, -1, -1).gather(2, near.unsqueeze(-1).expand(-1, -1, -1, 4))
    boxes[:, :, : queries // 2] = chosen * (1 + 0.1 * torch.randn(chosen.shape, generator=generator)).clamp(0.5, 1.5)
    return {
        "logits": torch.randn(layers, images, queries, classes, generator=generator) - 2,
        "boxes": boxes,
        "labels": torch.randint(classes, (images, objects), generator=generator),
        "target_boxes": targets,
        "num_objects": torch.full((images,), objects),
        "counts": (objects,) * images,
    }


def optimum(cost: Tensor, counts: tuple[int, ...], *, error: float) -> Optimum:
    """By scipy, in float64. error: of a cost in float32, as a share of the largest; 0 where all sums are exact.

    A candidate that solves rounded costs exactly loses at most twice the error for each of its M pairs. A float32
    solver compares paths of up to M costs, which are off by M unit roundoffs of the largest cost, and again loses twice
    that for each pair.
    """
    from scipy.optimize import linear_sum_assignment

    host = cost.double().cpu()
    totals, limits = [], []
    for matrix, count in zip(host, counts, strict=True):
        rows, columns = linear_sum_assignment(matrix[:count].numpy())
        totals.append(matrix[rows, columns].sum())
        solver = count * UNIT if error else 0.0
        limits.append(2 * count * (error + solver) * matrix[:count].abs().max() if count else matrix.new_zeros(()))
    return Optimum(host, counts, torch.stack(totals), torch.stack(limits))


def check_assignment(query: Tensor, truth: Optimum) -> str | None:
    """What is wrong with the query of each object (P, M), -1 for padding."""
    problems, objects, queries = truth.cost.shape
    if query.shape != (problems, objects) or query.dtype != torch.int64:
        return f"{query.dtype} {tuple(query.shape)} instead of int64 {(problems, objects)}"
    query = query.cpu()
    for problem, count in enumerate(truth.counts):
        chosen = query[problem, :count]
        if (query[problem, count:] != -1).any():
            return f"problem {problem}: padding has a query"
        if (chosen < 0).any() or (chosen >= queries).any() or len(chosen.unique()) < count:
            return f"problem {problem}: not one query of its own for each object"
        excess = float(truth.cost[problem, torch.arange(count), chosen].sum() - truth.totals[problem])
        if excess > float(truth.limits[problem]):
            limit = float(truth.limits[problem])
            return f"problem {problem}: total is {excess:.2g} above the least one, limit {limit:.2g}"
    return None
