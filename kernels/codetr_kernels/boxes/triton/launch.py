"""From tensors to a launch: constants, grid, buffers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from codetr_kernels.boxes.op import compute_dtype
from codetr_kernels.boxes.triton.kernels import box_loss_backward_kernel, box_loss_kernel, pairwise_kernel
from codetr_kernels.launching import device_of

NUM_WARPS = 4
FP_FUSION = False
"""Without fused multiply-adds, area + area - intersection of a box and itself is exactly its area."""

OPTIONS = {"num_warps": NUM_WARPS, "enable_fp_fusion": FP_FUSION}
"""Of every launch."""

BLOCK = 256
"""Aligned boxes of a program."""

MANY = 64
"""Columns from which a program's tile of pairs is wider than high."""


def pairwise_overlap(a: Tensor, b: Tensor, *, general: bool, cxcywh: bool) -> Tensor:
    """(B, N, M) of (B, N, 4) and (B, M, 4)."""
    batch, rows, columns = a.shape[0], a.shape[1], b.shape[1]
    output = a.new_empty(batch, rows, columns, dtype=compute_dtype(a, b))
    if not output.numel():
        return output
    constants = pairwise_constants(a, b, general=general, cxcywh=cxcywh)
    tile_n, tile_m = tile(columns)
    grid = (batch * triton.cdiv(rows, tile_n) * triton.cdiv(columns, tile_m),)
    (a, step_a), (b, step_b) = _shared(a), _shared(b)
    with device_of(a):
        pairwise_kernel[grid](a, b, output, rows, columns, step_a, step_b, **constants, **OPTIONS)
    return output


def box_loss(prediction: Tensor, target: Tensor, *, kind: str, cxcywh: bool) -> Tensor:
    """(...) of (..., 4)."""
    output = prediction.new_empty(prediction.shape[:-1], dtype=compute_dtype(prediction, target))
    if not output.numel():
        return output
    constants = loss_constants(prediction, target, kind=kind, cxcywh=cxcywh)
    with device_of(prediction):
        box_loss_kernel[_grid(output)](
            prediction.contiguous(), target.contiguous(), output, output.numel(), **constants, **OPTIONS
        )
    return output


def box_loss_backward(
    grad: Tensor,
    prediction: Tensor,
    target: Tensor,
    *,
    kind: str,
    cxcywh: bool,
    needs_prediction: bool,
    needs_target: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of prediction and target, each empty if not needed."""
    by_prediction = prediction.new_empty(prediction.shape if needs_prediction else (0,))
    by_target = target.new_empty(target.shape if needs_target else (0,))
    if not grad.numel() or not (needs_prediction or needs_target):
        return by_prediction, by_target
    constants = {
        **loss_constants(prediction, target, kind=kind, cxcywh=cxcywh),
        "NEEDS_PREDICTION": needs_prediction,
        "NEEDS_TARGET": needs_target,
    }
    tensors = (grad.contiguous(), prediction.contiguous(), target.contiguous(), by_prediction, by_target)
    with device_of(grad):
        box_loss_backward_kernel[_grid(grad)](*tensors, grad.numel(), **constants, **OPTIONS)
    return by_prediction, by_target


def tile(columns: int) -> tuple[int, int]:
    """Rows and columns of a program's pairs: two sizes, so that the number of objects never compiles anew."""
    return (16, 128) if columns >= MANY else (64, 32)


def pairwise_constants(a: Tensor, b: Tensor, *, general: bool, cxcywh: bool) -> dict[str, object]:
    """What the kernel of pairs is compiled for."""
    tile_n, tile_m = tile(b.shape[1])
    return {
        "GENERAL": general,
        "CXCYWH": cxcywh,
        "ACC": _triton_dtype(compute_dtype(a, b)),
        "BLOCK_N": tile_n,
        "BLOCK_M": tile_m,
    }


def loss_constants(prediction: Tensor, target: Tensor, *, kind: str, cxcywh: bool) -> dict[str, object]:
    """What both kernels of aligned boxes are compiled for."""
    acc = _triton_dtype(compute_dtype(prediction, target))
    return {"KIND": kind, "CXCYWH": cxcywh, "ACC": acc, "BLOCK": BLOCK}


def _triton_dtype(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype == torch.float64 else tl.float32


def _grid(rows: Tensor) -> tuple[int]:
    return (triton.cdiv(rows.numel(), BLOCK),)


def _shared(boxes: Tensor) -> tuple[Tensor, int]:
    """Contiguous boxes, and how many lie between two images: 0 if all images have the same ones."""
    if boxes.stride(0) == 0 or boxes.shape[0] == 1:
        return boxes[0].contiguous(), 0
    return boxes.contiguous(), boxes.shape[1]
