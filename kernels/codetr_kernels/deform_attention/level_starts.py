"""The first token of each level: an argument of other libraries' interfaces, which the shapes already say."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from codetr_kernels.deform_attention.checks import Shapes


def check_level_starts(starts: Tensor | None, shapes: Shapes) -> None:
    """Raises ValueError if `starts`, int (L,), are not the sums of the levels before, as far as the host can see.

    Numbers on an accelerator are not looked at, which would wait for it, nor while a graph is traced.
    """
    if starts is None:
        return
    if starts.shape != (len(shapes),):
        raise ValueError(f"level_start_index must be ({len(shapes)},), one a level, got {tuple(starts.shape)}")
    if starts.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if isinstance(shapes, Tensor):
        if shapes.device.type != "cpu":
            return
        shapes = [(height, width) for height, width in shapes.tolist()]
    expected = list(accumulate((height * width for height, width in shapes[:-1]), initial=0))
    if starts.tolist() != expected:
        raise ValueError(
            f"level_start_index must be {expected} for levels of {[tuple(shape) for shape in shapes]}, got "
            f"{starts.tolist()}: levels lie one after the other"
        )
