"""What the launches of all kernels share."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def device_of(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device_of(tensor) if tensor.is_cuda else contextlib.nullcontext()
