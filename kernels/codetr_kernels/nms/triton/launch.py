"""Launches of the kernels: what they are compiled for, their grid, their buffers."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from codetr_kernels.launching import device_of
from codetr_kernels.nms.candidates import arithmetic, ranked
from codetr_kernels.nms.triton.kernels import greedy_kernel, soft_kernel

GREEDY_BLOCK = 64
"""Candidates that are looked at together. All pairs of a block are compared, and a block waits for the one before."""

GREEDY_WARPS = 8

SOFT_BLOCK = 1024
"""Most boxes that a program of soft suppression holds at a time."""


def batched_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, *, iou_threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    """As `codetr_kernels.batched_nms`."""
    batch, count = scores.shape
    length = min(limit, count)
    dtype = arithmetic(boxes)
    index = groups.new_empty(batch, length)
    kept = valid.new_empty(batch, length)
    if index.numel() == 0:
        return index, kept
    falling = ranked(scores, valid).contiguous().sort(dim=1, descending=True, stable=True)
    with device_of(boxes):
        greedy_kernel[(batch,)](
            boxes.contiguous(),
            groups.contiguous(),
            falling.values,
            falling.indices,
            torch.empty(batch, 4, length, dtype=dtype, device=boxes.device),
            torch.empty(batch, length, dtype=torch.int32, device=boxes.device),
            index,
            kept.view(torch.uint8),
            count,
            length,
            **threshold_constants(iou_threshold, dtype),
            BLOCK=greedy_block(dtype),
            num_warps=GREEDY_WARPS,
            **OPTIONS,
        )
    return index, kept


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    valid: Tensor,
    *,
    method: str,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    limit: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `codetr_kernels.soft_nms`."""
    batch, count = scores.shape
    length = min(limit, count)
    dtype = arithmetic(boxes, scores)
    index = groups.new_empty(batch, length)
    found = scores.new_empty(batch, length)
    kept = valid.new_empty(batch, length)
    if index.numel() == 0:
        return index, found, kept
    block = soft_block(count)
    with device_of(boxes):
        soft_kernel[(batch,)](
            boxes.contiguous(),
            groups.contiguous(),
            ranked(scores, valid).to(dtype).contiguous(),
            index,
            found,
            kept.view(torch.uint8),
            count,
            length,
            **threshold_constants(iou_threshold, dtype),
            **decay_constants(method, sigma, min_score),
            BLOCK=block,
            num_warps=soft_warps(block),
            **OPTIONS,
        )
    return index, found, kept


OPTIONS: dict[str, Any] = {"num_stages": 1, "enable_fp_fusion": False}
"""Without fusion, what exceeds the threshold is what exceeds it in PyTorch's float32, to the last bit."""


def threshold_constants(iou_threshold: float, dtype: torch.dtype) -> dict[str, object]:
    """What both kernels are compiled for. A model has few thresholds, and as an argument one would be a float32."""
    bits, acc = (53, tl.float64) if dtype == torch.float64 else (24, tl.float32)
    half_bit = math.ldexp(1, math.frexp(iou_threshold)[1] - bits - 1) if iou_threshold else 0.0
    return {"THRESHOLD": float(iou_threshold), "HALF_BIT": half_bit, "ACC": acc}


def decay_constants(method: str, sigma: float, min_score: float) -> dict[str, object]:
    """What the soft kernel is compiled for beside the threshold."""
    return {"SIGMA": float(sigma) if method == "gaussian" else None, "MIN_SCORE": float(min_score)}


def greedy_block(dtype: torch.dtype) -> int:
    """Half as many candidates in float64, whose pairs would not fit into registers."""
    return GREEDY_BLOCK // 2 if dtype == torch.float64 else GREEDY_BLOCK


def soft_block(count: int) -> int:
    """Boxes that a program holds at a time: all of them, where they are not too many."""
    return min(SOFT_BLOCK, max(32, int(triton.next_power_of_2(count))))


def soft_warps(block: int) -> int:
    """Four boxes a thread, up to eight warps."""
    return min(8, max(1, block // 128))
