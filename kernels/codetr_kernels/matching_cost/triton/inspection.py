"""Every shipped variant, compiled for a GPU that is not there."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from codetr_kernels.compilation import Compiled
from codetr_kernels.compilation.signature import compile_launch, meta
from codetr_kernels.matching_cost.triton import launch
from codetr_kernels.matching_cost.triton.kernels import log_total_kernel, matching_cost_kernel

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}
"""Of the logits; boxes are in float32 at least, as under autocast."""

CLASSES = {"focal": 80, "softmax": 92}
"""COCO's, with and without the class of no object."""


def rows(target: str) -> Iterator[Compiled]:
    """`matching_cost/<class cost>/<dtype>` and `matching_cost/log_total/<dtype>`."""
    for name, dtype in DTYPES.items():
        for class_cost in CLASSES:
            yield compile_cost(class_cost, dtype, target, name=f"matching_cost/{class_cost}/{name}")
        yield compile_log_total(dtype, target, name=f"matching_cost/log_total/{name}")


def compile_cost(class_cost: str, dtype: torch.dtype, target: str, *, name: str) -> Compiled:
    """The cost of a decoder of six layers and 300 queries, with counts and a mask of queries."""
    problem = example(class_cost, dtype)
    settings = launch.Settings(class_cost, 2.0, 5.0, 2.0, 0.25, 2.0)
    problems, queries, _ = problem.logits.shape
    log_totals = meta(problems, queries, dtype=problem.compute_dtype) if class_cost == "softmax" else None
    cost = meta(problems, problem.labels.shape[1], queries, dtype=problem.compute_dtype)
    return compile_launch(
        matching_cost_kernel,
        name=name,
        target=target,
        arguments=launch.arguments(problem, log_totals, cost),
        constants=launch.constants(problem, settings),
        num_warps=launch.NUM_WARPS,
    )


def compile_log_total(dtype: torch.dtype, target: str, *, name: str) -> Compiled:
    problem = example("softmax", dtype)
    return compile_launch(
        log_total_kernel,
        name=name,
        target=target,
        arguments=launch.log_total_arguments(problem, meta(*problem.logits.shape[:2], dtype=problem.compute_dtype)),
        constants=launch.log_total_constants(problem),
        num_warps=launch.NUM_WARPS,
    )


def example(class_cost: str, dtype: torch.dtype) -> launch.Problem:
    """Two images of up to 60 objects, on the meta device, flat."""
    precise = torch.promote_types(dtype, torch.float32)
    layers, images, objects, queries = 6, 2, 60, 300
    return launch.Problem(
        logits=meta(layers, images, queries, CLASSES[class_cost], dtype=dtype),
        boxes=meta(layers, images, queries, 4, dtype=precise),
        labels=meta(images, objects, dtype=torch.int64),
        target_boxes=meta(images, objects, 4, dtype=torch.float32),
        num_objects=meta(images, dtype=torch.int64),
        valid=meta(images, queries, dtype=torch.bool),
    ).flat()
