"""Every shipped variant, compiled for a GPU that is not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from codetr_kernels.compilation import Compiled
from codetr_kernels.compilation.signature import compile_launch, meta
from codetr_kernels.losses.triton import launch
from codetr_kernels.losses.triton.kernels import (
    class_loss_backward_kernel,
    class_loss_kernel,
    distribution_backward_kernel,
    distribution_kernel,
)
from codetr_kernels.losses.triton.launch import Rows

ROWS = 2 * 22_223
"""Of two images of 800 x 1333 pixels: the tokens of four levels."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def rows(target: str) -> Iterator[Compiled]:
    """Focal loss of COCO's and LVIS's classes, quality focal loss, both also of exponent 1.5, distributions of 17."""
    for dtype in DTYPES:
        yield from class_losses(target, dtype, 80, 2.0, has_quality=False)
        yield from distributions(target, dtype, 17)
    yield from class_losses(target, "bf16", 1203, 2.0, has_quality=False)
    yield from class_losses(target, "bf16", 80, 1.5, has_quality=False)
    for exponent in (2.0, 1.5):
        yield from class_losses(target, "bf16", 80, exponent, has_quality=True)


def class_losses(target: str, dtype: str, classes: int, exponent: float, *, has_quality: bool) -> Iterator[Compiled]:
    """Both directions of a class loss, with weights."""
    problem = Rows(
        meta(ROWS, classes, dtype=DTYPES[dtype]),
        meta(ROWS, dtype=torch.int64),
        _per_row() if has_quality else None,
        _per_row(),
        0.25,
        exponent,
    )
    names = ("logits", "labels", "quality", "weights")
    arguments = dict(zip(names, launch.class_tensors(problem), strict=True))
    numbers = {"count": ROWS, "alpha": problem.alpha, "exponent": exponent}
    name = f"{'quality_' if has_quality else ''}focal_loss/k{classes}/{exponent:g}/{dtype}"
    constants = launch.class_constants(problem)
    forward = {**arguments, "output": _per_row(), **numbers}
    yield _compiled(class_loss_kernel, f"{name}/forward", target, forward, constants)
    backward = {"grad": _per_row(), **arguments, "by_logits": problem.logits, **numbers}
    yield _compiled(class_loss_backward_kernel, f"{name}/backward", target, backward, constants)


def distributions(target: str, dtype: str, bins: int) -> Iterator[Compiled]:
    """Both directions of distribution focal loss, with weights."""
    logits, weights = meta(ROWS, bins, dtype=DTYPES[dtype]), _per_row()
    names = ("logits", "target", "weights")
    arguments = dict(zip(names, launch.distribution_tensors(logits, _per_row(), weights), strict=True))
    constants = launch.distribution_constants(logits, weights)
    name = f"distribution_focal_loss/{bins}/{dtype}"
    forward = {**arguments, "output": _per_row(), "count": ROWS}
    yield _compiled(distribution_kernel, f"{name}/forward", target, forward, constants)
    backward = {"grad": _per_row(), **arguments, "by_logits": logits, "count": ROWS}
    yield _compiled(distribution_backward_kernel, f"{name}/backward", target, backward, constants)


def _compiled(
    kernel: object, name: str, target: str, arguments: Mapping[str, object], constants: Mapping[str, object]
) -> Compiled:
    return compile_launch(
        kernel, name=name, target=target, arguments=arguments, constants=constants, num_warps=launch.NUM_WARPS
    )


def _per_row() -> Tensor:
    return meta(ROWS, dtype=torch.float32)
