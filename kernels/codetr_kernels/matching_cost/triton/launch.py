"""From tensors to a launch: constants, grid, buffers."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from codetr_kernels.launching import device_of
from codetr_kernels.matching_cost.reference import EPS, INVALID_COST, compute_dtype
from codetr_kernels.matching_cost.triton.kernels import log_total_kernel, matching_cost_kernel

BLOCK_N = 128
"""Queries of a program's tile: one a thread, with every object of the tile."""

NUM_WARPS = 4

_BLOCK = 2048
"""Logits of a program's tile of `log_total_kernel`."""


class Problem(NamedTuple):
    """The inputs of one call: as `matching_cost`."""

    logits: Tensor
    boxes: Tensor
    labels: Tensor
    target_boxes: Tensor
    num_objects: Tensor | None
    valid: Tensor | None

    def flat(self) -> Problem:
        """Logits and boxes as (P, N, ...), each problem contiguous; a slice of all queries is not copied."""
        logits, boxes, labels, target_boxes, num_objects, valid = self
        return Problem(
            _problems(logits),
            _problems(boxes),
            labels.contiguous(),
            target_boxes.contiguous(),
            None if num_objects is None else num_objects.contiguous(),
            None if valid is None else valid.contiguous(),
        )

    @property
    def compute_dtype(self) -> torch.dtype:
        return compute_dtype(self.logits, self.boxes, self.target_boxes)


class Settings(NamedTuple):
    """How the terms are computed and summed: as `matching_cost`."""

    class_cost: str
    class_weight: float
    l1_weight: float
    giou_weight: float
    alpha: float
    gamma: float


def matching_cost(problem: Problem, settings: Settings) -> Tensor:
    """(P, M, N); rows of no object are not written."""
    problem = problem.flat()
    (problems, queries, _), objects = problem.logits.shape, problem.labels.shape[1]
    cost = problem.logits.new_empty(problems, objects, queries, dtype=problem.compute_dtype)
    if cost.numel() == 0:
        return cost
    is_softmax = settings.class_cost == "softmax"
    with device_of(cost):
        log_totals = _log_totals(problem) if is_softmax else None
        grid = (problems, triton.cdiv(objects, block_m(problem)), triton.cdiv(queries, BLOCK_N))
        matching_cost_kernel[grid](
            **arguments(problem, log_totals, cost), **constants(problem, settings), num_warps=NUM_WARPS
        )
    return cost


def _log_totals(problem: Problem) -> Tensor:
    """(P, N). A launch of its own, so that each logit is read once, not once a tile of objects."""
    problems, queries, _ = problem.logits.shape
    log_totals = problem.logits.new_empty(problems, queries, dtype=problem.compute_dtype)
    constant = log_total_constants(problem)
    log_total_kernel[(problems, triton.cdiv(queries, int(str(constant["BLOCK_N"]))))](
        **log_total_arguments(problem, log_totals), **constant, num_warps=NUM_WARPS
    )
    return log_totals


def arguments(problem: Problem, log_totals: Tensor | None, cost: Tensor) -> dict[str, object]:
    """Of `matching_cost_kernel`, by name; problem: flat."""
    unused = problem.labels  # A pointer that the kernel is compiled not to follow.
    return {
        "logits": problem.logits,
        "log_totals": unused if log_totals is None else log_totals,
        "boxes": problem.boxes,
        "labels": problem.labels,
        "target_boxes": problem.target_boxes,
        "num_objects": unused if problem.num_objects is None else problem.num_objects,
        "valid": unused if problem.valid is None else problem.valid.view(torch.uint8),
        "cost": cost,
        "logits_stride": problem.logits.stride(0),
        "boxes_stride": problem.boxes.stride(0),
        "B": problem.labels.shape[0],
        "M": problem.labels.shape[1],
        "N": problem.logits.shape[1],
    }


def constants(problem: Problem, settings: Settings) -> dict[str, object]:
    """What `matching_cost_kernel` is compiled for."""
    return {
        "K": problem.logits.shape[2],
        "SOFTMAX": settings.class_cost == "softmax",
        "COUNTED": problem.num_objects is not None,
        "MASKED": problem.valid is not None,
        "CLASS_WEIGHT": float(settings.class_weight),
        "L1_WEIGHT": float(settings.l1_weight),
        "GIOU_WEIGHT": float(settings.giou_weight),
        "ALPHA": float(settings.alpha),
        "GAMMA": float(settings.gamma),
        "EPS": EPS,
        "INVALID_COST": INVALID_COST,
        "ACC": _acc(problem),
        "BLOCK_M": block_m(problem),
        "BLOCK_N": BLOCK_N,
    }


def block_m(problem: Problem) -> int:
    """Objects of a program's tile: half as many in float64, which would not stay in registers."""
    return 4 if problem.compute_dtype == torch.float64 else 8


def log_total_arguments(problem: Problem, log_totals: Tensor) -> dict[str, object]:
    """Of `log_total_kernel`, by name; problem: flat."""
    logits = problem.logits
    return {"logits": logits, "log_totals": log_totals, "logits_stride": logits.stride(0), "N": logits.shape[1]}


def log_total_constants(problem: Problem) -> dict[str, object]:
    """What `log_total_kernel` is compiled for."""
    classes = problem.logits.shape[2]
    block_k = min(128, max(16, int(triton.next_power_of_2(classes))))
    return {"K": classes, "ACC": _acc(problem), "BLOCK_N": _BLOCK // block_k, "BLOCK_K": block_k}


def _acc(problem: Problem) -> object:
    return tl.float64 if problem.compute_dtype == torch.float64 else tl.float32


def _problems(tensor: Tensor) -> Tensor:
    """(L, B, N, C) as (P, N, C), rows contiguous and adjacent; a copy only where the strides do not allow it."""
    flat = tensor.flatten(0, 1)
    return flat if flat.stride()[1:] == (flat.shape[2], 1) else flat.contiguous()
