"""Compile a Triton kernel for a GPU that is not there, and read what came out: registers, spills, widths, atomics."""

from codetr_kernels.compilation.compile import Compiled, compile_kernel
from codetr_kernels.compilation.targets import TARGETS, target

__all__ = ["TARGETS", "Compiled", "compile_kernel", "target"]
