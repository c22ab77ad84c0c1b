"""The kernels as they are launched, compiled for a GPU that is not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from codetr_kernels.compilation import Compiled
from codetr_kernels.compilation.signature import compile_launch, meta
from codetr_kernels.nms.triton import launch
from codetr_kernels.nms.triton.kernels import greedy_kernel, soft_kernel

DTYPES = {16: torch.bfloat16, 32: torch.float32, 64: torch.float64}
METHODS = ("linear", "gaussian")
COUNTS = (32, 300, 1000)
"""Boxes of an image that soft suppression is compiled for: the fewest, the usual, and as many as a program holds."""


def rows(target: str) -> Iterator[Compiled]:
    """Compile every variant: "batched_nms/16-bit", by the type of the boxes, and "soft_nms/linear/32-bit/1024", by the
    boxes that a program holds at a time."""
    for bits in DTYPES:
        yield greedy_row(target, bits)
    for method in METHODS:
        for count in COUNTS:
            yield soft_row(target, method, 32, count)
        yield soft_row(target, method, 64, COUNTS[-1])


def greedy_row(target: str, bits: int) -> Compiled:
    """The training step's region proposals: two images of 17000 candidates, 1000 kept."""
    batch, count, length, dtype = 2, 17000, 1000, DTYPES[bits]
    wide = torch.promote_types(dtype, torch.float32)
    arguments = {
        "boxes": meta(batch, count, 4, dtype=dtype),
        "groups": meta(batch, count, dtype=torch.int64),
        "scores": meta(batch, count, dtype=dtype),
        "order": meta(batch, count, dtype=torch.int64),
        "kept_boxes": meta(batch, 4, length, dtype=wide),
        "kept_groups": meta(batch, length, dtype=torch.int32),
        "index": meta(batch, length, dtype=torch.int64),
        "kept": meta(batch, length, dtype=torch.uint8),
        "N": count,
        "D": length,
    }
    constants = {**launch.threshold_constants(0.7, wide), "BLOCK": launch.greedy_block(wide)}
    return _compile(greedy_kernel, f"batched_nms/{bits}-bit", target, arguments, constants, launch.GREEDY_WARPS)


def soft_row(target: str, method: str, bits: int, count: int) -> Compiled:
    """Two images, at most 300 kept."""
    batch, dtype, block = 2, DTYPES[bits], launch.soft_block(count)
    length = min(300, count)
    arguments = {
        "boxes": meta(batch, count, 4, dtype=dtype),
        "groups": meta(batch, count, dtype=torch.int64),
        "remaining": meta(batch, count, dtype=dtype),
        "index": meta(batch, length, dtype=torch.int64),
        "found_scores": meta(batch, length, dtype=dtype),
        "kept": meta(batch, length, dtype=torch.uint8),
        "N": count,
        "D": length,
    }
    settings = {**launch.threshold_constants(0.5, dtype), **launch.decay_constants(method, 0.5, 0.001)}
    constants = {**settings, "BLOCK": block}
    name = f"soft_nms/{method}/{bits}-bit/{block}"
    return _compile(soft_kernel, name, target, arguments, constants, launch.soft_warps(block))


def _compile(
    kernel: object,
    name: str,
    target: str,
    arguments: Mapping[str, object],
    constants: Mapping[str, object],
    num_warps: int,
) -> Compiled:
    return compile_launch(
        kernel,
        name=name,
        target=target,
        arguments=arguments,
        constants=constants,
        num_warps=num_warps,
        enable_fp_fusion=launch.OPTIONS["enable_fp_fusion"],
    )
