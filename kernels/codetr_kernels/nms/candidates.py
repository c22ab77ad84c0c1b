"""What both implementations make of the inputs first: which box may be kept, and which may overlap another."""

from __future__ import annotations

import torch
from torch import Tensor


def arithmetic(*tensors: Tensor) -> torch.dtype:
    """The type of the arithmetic: the widest of the tensors', at least float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def ranked(scores: Tensor, valid: Tensor) -> Tensor:
    """Finite scores of the boxes that may be kept, -inf for the others; a tensor of its own.

    Infinite scores of valid boxes become the largest and the lowest finite numbers.
    """
    lowest, largest = torch.finfo(scores.dtype).min, torch.finfo(scores.dtype).max
    return scores.nan_to_num(nan=-torch.inf, posinf=largest, neginf=lowest).masked_fill_(~valid, -torch.inf)


def with_area(boxes: Tensor) -> Tensor:
    """boxes (..., 4), those without a finite positive area as zeros, which overlap nothing."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    proper = (width > 0) & (height > 0) & (width * height < torch.inf)
    return boxes.masked_fill(~proper.unsqueeze(-1), 0)
