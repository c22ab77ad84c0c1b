"""The types of a launch's arguments, as Triton would find them, from tensors that need no memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from codetr_kernels.compilation.compile import Compiled, compile_kernel

_TYPES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.uint8: "u8",
}


def meta(*size: int, dtype: torch.dtype) -> Tensor:
    """A tensor without memory."""
    return torch.empty(size, dtype=dtype, device="meta")


def type_name(argument: object) -> str:
    """Triton's name of an argument's type, as it would be found at a launch."""
    if isinstance(argument, Tensor):
        return f"*{_TYPES[argument.dtype]}"
    if isinstance(argument, float):
        return "fp32"
    assert isinstance(argument, int), argument
    return "i32" if -(2**31) <= argument < 2**31 else "i64"


def within_2gb(argument: object) -> bool:
    """Whether an argument is a tensor of less than 2 GiB."""
    return isinstance(argument, Tensor) and argument.numel() * argument.element_size() < 2**31


def compile_launch(
    kernel: object,
    *,
    name: str,
    target: str,
    arguments: Mapping[str, object],
    constants: Mapping[str, object],
    num_warps: int,
    enable_fp_fusion: bool = True,
) -> Compiled:
    """`compile_kernel` for a launch with these arguments: tensors (on the meta device: `meta`) and numbers, by name."""
    # Allocators align tensors to more than 16 bytes.
    pointers = [argument for argument, value in arguments.items() if isinstance(value, Tensor)]
    return compile_kernel(
        kernel,
        name=name,
        target=target,
        arguments={argument: type_name(value) for argument, value in arguments.items()},
        constants=constants,
        num_warps=num_warps,
        enable_fp_fusion=enable_fp_fusion,
        divisible_by_16=pointers,
        within_2gb=[pointer for pointer in pointers if within_2gb(arguments[pointer])],
    )
