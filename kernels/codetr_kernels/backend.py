"""Which implementation runs on a device, and why."""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Literal, NamedTuple

import torch
from torch import Tensor

OLDEST = (8, 0)
"""The oldest compute capability that the kernels are compiled and tuned for: Ampere."""

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class Backend(NamedTuple):
    """name: what runs; "reference" is any form in PyTorch's operations, the one made for CPUs among them. reason: why,
    for a person."""

    name: Literal["triton", "reference"]
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def which_backend(device: torch.device | str | int | None = None, dtype: torch.dtype = torch.float32) -> Backend:
    """Whether tensors of `dtype` on `device` run the Triton kernels or the PyTorch reference.

    device: default the current CUDA device, or the CPU where there is none.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.device(device)
    if dtype not in _DTYPES:
        return Backend("reference", f"the kernels take {', '.join(map(str, _DTYPES))}, not {dtype}")
    if where.type == "cuda" and torch.cuda.is_available() and str(where) == "cuda":
        return _of_device("cuda", torch.cuda.current_device())
    return _of_device(where.type, where.index)


@functools.cache
def _of_device(kind: str, index: int | None) -> Backend:
    """Asked once a device: neither the hardware nor the installation changes while a process runs."""
    if importlib.util.find_spec("triton") is None:
        return Backend("reference", "triton is not installed (it is published for Linux: pip install triton)")
    if interpreted():
        if kind == "cpu":
            return Backend(
                "triton", "TRITON_INTERPRET is set: kernels run in the interpreter, to be checked, not timed"
            )
        return Backend("reference", f"TRITON_INTERPRET is set, and the interpreter runs on the CPU, not on {kind}")
    if kind != "cuda":
        return Backend("reference", f"PyTorch operations: the kernels run on NVIDIA and AMD GPUs, not on {kind}")
    if not torch.cuda.is_available():
        return Backend("reference", "torch sees no GPU")
    name = torch.cuda.get_device_name(index)
    if torch.version.hip is not None:
        return Backend("triton", f"{name} (ROCm {torch.version.hip})")
    capability = torch.cuda.get_device_capability(index)
    if capability < OLDEST:
        found, needed = ".".join(map(str, capability)), ".".join(map(str, OLDEST))
        return Backend(
            "reference", f"{name} has compute capability {found}, the kernels need {needed} (Ampere) or newer"
        )
    return Backend("triton", f"{name}, compute capability {'.'.join(map(str, capability))}")


@functools.cache
def interpreted() -> bool:
    """Whether Triton's interpreter stands in for a GPU in this process."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "y", "yes")


@torch.compiler.assume_constant_result
def _chosen(kind: str, index: int | None, dtype: torch.dtype) -> bool:
    return which_backend(torch.device(kind) if index is None else torch.device(kind, index), dtype).name == "triton"


def runs_triton(*tensors: Tensor) -> bool:
    """Whether these tensors, all on one device, are for the Triton kernels. Constant under `torch.compile`."""
    device = tensors[0].device
    return all(_chosen(device.type, device.index, tensor.dtype) for tensor in tensors)
