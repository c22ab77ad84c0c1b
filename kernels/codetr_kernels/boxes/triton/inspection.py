"""Every shipped variant, compiled for a GPU that is not there."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from codetr_kernels.boxes.triton import launch
from codetr_kernels.boxes.triton.kernels import box_loss_backward_kernel, box_loss_kernel, pairwise_kernel
from codetr_kernels.compilation import Compiled
from codetr_kernels.compilation.signature import compile_launch, meta

BATCH, ROWS = 2, 22_223
"""Two images of 800 x 1333 pixels: the tokens of four levels."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def rows(target: str) -> Iterator[Compiled]:
    """Pairs of both tiles, and the losses with both gradients; of mixed types the loss that holds most."""
    for general in (False, True):
        for columns in (launch.MANY - 1, launch.MANY):
            yield pairwise(target, torch.float32, columns, general=general, cxcywh=general)
    for kind, dtype in (("iou", "fp32"), ("giou", "fp32"), ("diou", "fp32"), ("ciou", "fp32"), ("ciou", "bf16")):
        yield loss(target, kind, dtype, cxcywh=dtype == "bf16")
        yield loss_backward(target, kind, dtype, cxcywh=dtype == "bf16")


def pairwise(target: str, dtype: torch.dtype, columns: int, *, general: bool, cxcywh: bool) -> Compiled:
    """The kernel of pairs of ROWS boxes with so many others."""
    a, b = meta(BATCH, ROWS, 4, dtype=dtype), meta(BATCH, columns, 4, dtype=dtype)
    tile = "x".join(map(str, launch.tile(columns)))
    return compile_launch(
        pairwise_kernel,
        name=f"pairwise_{'giou' if general else 'iou'}/{tile}",
        target=target,
        arguments={
            "a": a,
            "b": b,
            "output": meta(BATCH, ROWS, columns, dtype=torch.float32),
            "N": ROWS,
            "M": columns,
            "step_a": ROWS,
            "step_b": columns,
        },
        constants=launch.pairwise_constants(a, b, general=general, cxcywh=cxcywh),
        num_warps=launch.NUM_WARPS,
        enable_fp_fusion=launch.FP_FUSION,
    )


def loss(target: str, kind: str, dtype: str, *, cxcywh: bool) -> Compiled:
    """The kernel of a loss."""
    prediction, other = _boxes(dtype)
    return compile_launch(
        box_loss_kernel,
        name=f"{kind}_loss/forward/{dtype}",
        target=target,
        arguments={"prediction": prediction, "target": other, "output": _per_box(), "count": BATCH * ROWS},
        constants=launch.loss_constants(prediction, other, kind=kind, cxcywh=cxcywh),
        num_warps=launch.NUM_WARPS,
        enable_fp_fusion=launch.FP_FUSION,
    )


def loss_backward(target: str, kind: str, dtype: str, *, cxcywh: bool) -> Compiled:
    """The kernel of a loss's gradients."""
    prediction, other = _boxes(dtype)
    return compile_launch(
        box_loss_backward_kernel,
        name=f"{kind}_loss/backward/{dtype}",
        target=target,
        arguments={
            "grad": _per_box(),
            "prediction": prediction,
            "target": other,
            "by_prediction": prediction,
            "by_target": other,
            "count": BATCH * ROWS,
        },
        constants={
            **launch.loss_constants(prediction, other, kind=kind, cxcywh=cxcywh),
            "NEEDS_PREDICTION": True,
            "NEEDS_TARGET": True,
        },
        num_warps=launch.NUM_WARPS,
        enable_fp_fusion=launch.FP_FUSION,
    )


def _boxes(dtype: str) -> tuple[Tensor, Tensor]:
    """Predictions of the type of the model, targets in single precision."""
    return meta(BATCH * ROWS, 4, dtype=DTYPES[dtype]), meta(BATCH * ROWS, 4, dtype=torch.float32)


def _per_box() -> Tensor:
    return meta(BATCH * ROWS, dtype=torch.float32)
