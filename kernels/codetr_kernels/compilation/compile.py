"""From a kernel and the types of its arguments to a row of facts about its machine code."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Mapping

import triton
from triton import knobs
from triton.compiler import ASTSource

from codetr_kernels.compilation.amd import read_amd
from codetr_kernels.compilation.nvidia import read_nvidia
from codetr_kernels.compilation.targets import target as target_named


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """One kernel, compiled for one GPU.

    registers: of a thread. spills: bytes of stack or scratch memory a thread; on AMD at least 4 a spilled vector
    register. scalar_spills: on AMD, scalar registers kept in lanes of vector registers: instructions, but no memory.
    shared: bytes of shared memory a program. loads: bytes that a thread's global load reads -> such instructions.
    loop_loads: the same of the innermost loop. gather_bytes: the widest load of the innermost loop, or of the kernel
    where that loads nothing. atomics: instruction -> how many; NVIDIA's in PTX's words, such as red.global.add.v4.f32,
    AMD's as the assembler has them. has_cas: whether it compares and swaps, as emulated atomics do in a loop.
    instructions: of the machine code. loop_instructions: of the body of its innermost loop, 0 without one; of several
    the largest, and none that only tries a compare-and-swap again. Compilers unroll: a turn may do the work of several
    turns of the source, and loop_loads says how many. seconds: to compile, without a cache.
    """

    name: str
    target: str
    registers: int
    spills: int
    scalar_spills: int
    shared: int
    gather_bytes: int
    loads: dict[int, int]
    loop_loads: dict[int, int]
    atomics: dict[str, int]
    has_cas: bool
    instructions: int
    loop_instructions: int
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """For JSON, whose keys are text."""
        fields = dataclasses.asdict(self)
        for name in ("loads", "loop_loads"):
            fields[name] = {str(width): count for width, count in fields[name].items()}
        return fields


def compile_kernel(
    kernel: object,
    *,
    name: str,
    target: str,
    arguments: Mapping[str, str],
    constants: Mapping[str, object],
    num_warps: int,
    num_stages: int = 1,
    enable_fp_fusion: bool = True,
    divisible_by_16: Collection[str] = (),
    within_2gb: Collection[str] = (),
) -> Compiled:
    """Compile a `triton.jit` kernel for a target of `TARGETS`, GPU or not.

    name: of the row. arguments: Triton's type of each argument that is no constant, such as "*fp32" or "i32".
    divisible_by_16: those that Triton would find divisible at a launch: pointers to whole tensors, most strides.
    within_2gb: pointers to tensors of less than 2 GiB, which AMD's backend addresses otherwise; without effect on
    NVIDIA's.

    Raises:
        ValueError: an unknown target, or arguments and constants that are not those of the kernel.
        TypeError: not a `triton.jit` function.
        RuntimeError: the kernel is interpreted (TRITON_INTERPRET), or Triton's tools are missing.
    """
    gpu = target_named(target)
    function = _jit_function(kernel, name)
    _check_names(name, "divisible_by_16", divisible_by_16, arguments)
    _check_names(name, "within_2gb", within_2gb, arguments)
    hints: dict[str, tuple[int, Collection[str]]] = {"tt.divisibility": (16, divisible_by_16)}
    if gpu.backend == "hip":
        hints["tt.pointer_range"] = (32, within_2gb)
    source = _source(function, _signature(function, name, arguments, constants), constants, hints)
    options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": enable_fp_fusion}
    with knobs.compilation.scope():
        knobs.compilation.always_compile = True
        knobs.compilation.store_binary_only = False
        start = time.perf_counter()
        binary = triton.compile(source, target=gpu, options=options)
        seconds = time.perf_counter() - start
    reading = read_nvidia(binary.asm["cubin"]) if gpu.backend == "cuda" else read_amd(binary.asm["amdgcn"])
    return Compiled(name=name, target=target, shared=binary.metadata.shared, seconds=seconds, **reading._asdict())


def _jit_function(kernel: object, name: str) -> triton.JITFunction:
    if knobs.runtime.interpret or type(kernel).__name__ == "InterpretedFunction":
        raise RuntimeError(
            f"{name} cannot be compiled: TRITON_INTERPRET is set, and kernels are interpreted; "
            "unset it and start a new process"
        )
    if not isinstance(kernel, triton.JITFunction):
        raise TypeError(
            f"{name} must be a function decorated with triton.jit, got {type(kernel).__name__}"
            f"{'; pass its .fn' if hasattr(kernel, 'fn') else ''}"
        )
    return kernel


def _source(
    function: triton.JITFunction,
    signature: dict[str, str],
    constants: Mapping[str, object],
    hints: Mapping[str, tuple[int, Collection[str]]],
) -> ASTSource:
    """hints: what Triton may assume, its value, and of which arguments."""
    names = list(signature)
    return ASTSource(
        fn=function,
        signature=signature,
        constexprs={(names.index(constant),): value for constant, value in constants.items()},
        attrs={
            (index,): [[hint, value] for hint, (value, hinted) in hints.items() if argument in hinted]
            for index, argument in enumerate(names)
        },
    )


def _signature(
    function: triton.JITFunction, name: str, arguments: Mapping[str, str], constants: Mapping[str, object]
) -> dict[str, str]:
    given = {**arguments, **dict.fromkeys(constants, "constexpr")}
    missing = [argument for argument in function.arg_names if argument not in given]
    unknown = [argument for argument in given if argument not in function.arg_names]
    twice = [argument for argument in arguments if argument in constants]
    if missing or unknown or twice:
        wrong = {"missing": missing, "unknown": unknown, "both argument and constant": twice}
        found = "; ".join(f"{what}: {', '.join(which)}" for what, which in wrong.items() if which)
        raise ValueError(f"{name} takes {', '.join(function.arg_names)}; {found}")
    return {argument: given[argument] for argument in function.arg_names}


def _check_names(name: str, where: str, given: Collection[str], arguments: Mapping[str, str]) -> None:
    unknown = [argument for argument in given if argument not in arguments]
    if unknown:
        raise ValueError(f"{name}: {where} names {', '.join(unknown)}, expected some of {', '.join(arguments)}")
