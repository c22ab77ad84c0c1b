"""Every shipped configuration, compiled for a GPU that is not there: what its machine code looks like."""

from __future__ import annotations

import multiprocessing
from collections.abc import Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from typing import NamedTuple

import torch
from torch import Tensor

from codetr_kernels.compilation import TARGETS, Compiled, compile_kernel
from codetr_kernels.compilation.signature import meta, type_name, within_2gb
from codetr_kernels.deform_attention.triton import launch
from codetr_kernels.deform_attention.triton.backward import backward_kernel
from codetr_kernels.deform_attention.triton.configs import Config, shipped
from codetr_kernels.deform_attention.triton.forward import forward_kernel
from codetr_kernels.deform_attention.triton.launch import Problem

IMAGE = (800, 1333)
"""Height and width of the usual evaluation image, whose levels have strides of 8 and more."""

DTYPES = {16: torch.bfloat16, 32: torch.float32, 64: torch.float64}
"""Of value, by the bits of a key."""


class Variant(NamedTuple):
    """What the kernels are compiled for beside a key of the table; the default is what a detector trains with.

    form: numbers of a reference, 2 or 4; 0 for locations and weights. levels: 1 to 6. on_host: whether the sizes of
    the levels are numbers, not a tensor. The others: as `deform_attention_fused` and its gradient.
    """

    form: int = 2
    heads: int = 8
    levels: int = 4
    points: int = 4
    padded: bool = True
    on_host: bool = True
    needs_references: bool = True
    deterministic: bool = False
    native: bool = False


class Row(NamedTuple):
    """One shipped configuration. key: of its table.

    instructions_per_point: of a thread, for one sampled point of all the queries and channels that it holds; None
    where the loop's gathers cannot be told from its other loads.
    """

    key: str
    config: Config
    compiled: Compiled
    instructions_per_point: float | None


def rows(
    target: str, *, keys: Collection[str] | None = None, variant: Variant | None = None, processes: int = 1
) -> Iterator[Row]:
    """Compile the shipped configurations of a target, one after the other or `processes` at once, in the table's order.

    keys: of the table, such as "backward/16-bit/d32/many"; default all. Raises ValueError for a key that is not there.
    """
    table = shipped(target)
    unknown = [key for key in keys or () if key not in table]
    if unknown:
        raise ValueError(f"{target} has no configuration {', '.join(unknown)}, expected some of {', '.join(table)}")
    chosen = [key for key in table if keys is None or key in keys]
    work = (chosen, repeat(target), repeat(variant or Variant()))
    if processes == 1:
        yield from map(row, *work)
        return
    # Spawned: a fork would copy whatever threads torch and Triton hold.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(row, *work)


def row(key: str, target: str, variant: Variant) -> Row:
    """Compile one configuration."""
    config = shipped(target)[key]
    direction, bits, block_d, queries = key.split("/")
    dtype, channels = DTYPES[int(bits.removesuffix("-bit"))], int(block_d.removeprefix("d"))
    problem = example(dtype, channels, many_queries=queries == "many", variant=variant)
    compiled = compile_config(direction, config, target, problem, variant, name=key)
    return Row(key, config, compiled, _instructions_per_point(compiled, config, problem, target))


def example(dtype: torch.dtype, channels: int, *, many_queries: bool, variant: Variant) -> Problem:
    """Two images of the size of IMAGE as a Problem on the meta device: an encoder's queries, or a decoder's 300.

    Samples and logits have the dtype of value, references at least float32, as under autocast.
    """
    sides = [-(-side // (8 << level)) for level in range(variant.levels) for side in IMAGE]
    tokens = sum(height * width for height, width in zip(sides[::2], sides[1::2], strict=True))
    batch, queries = 2, tokens if many_queries else 300
    heads, levels, points = variant.heads, variant.levels, variant.points
    precise = torch.promote_types(dtype, torch.float32)
    return Problem(
        value=meta(batch, tokens, heads, channels, dtype=dtype),
        sides=sides if variant.on_host else (),
        shapes=None if variant.on_host else meta(levels, 2, dtype=torch.int64),
        references=meta(batch, queries, levels, variant.form, dtype=precise) if variant.form else None,
        samples=meta(batch, queries, heads, levels, points, 2, dtype=dtype),
        logits=meta(batch, queries, heads, levels * points, dtype=dtype),
        padding=meta(batch, tokens, dtype=torch.bool) if variant.padded else None,
    )


def compile_config(
    direction: str, config: Config, target: str, problem: Problem, variant: Variant, *, name: str
) -> Compiled:
    """Compile the kernel of a direction as `launch` launches it with `config` for `problem`."""
    kernel = forward_kernel if direction == "forward" else backward_kernel
    values = arguments(direction, problem, variant)
    options = launch.launch_options(config, use_tiles=launch.tiles_fit(problem))
    constants = {**launch.constants(problem), **{key: value for key, value in options.items() if key.isupper()}}
    if direction == "backward":
        constants |= {
            "NEEDS_VALUE": True,
            "NEEDS_REFERENCES": _needs_references(problem, variant),
            "FIXED": variant.deterministic,
        }
    # Allocators align tensors to more than 16 bytes.
    pointers = [argument for argument, value in values.items() if isinstance(value, Tensor)]
    return compile_kernel(
        kernel,
        name=name,
        target=target,
        arguments={argument: type_name(value) for argument, value in values.items()},
        constants=constants,
        num_warps=config.num_warps,
        num_stages=int(str(options["num_stages"])),
        enable_fp_fusion=bool(options["enable_fp_fusion"]),
        divisible_by_16=pointers,
        within_2gb=[pointer for pointer in pointers if within_2gb(values[pointer])],
    )


def arguments(direction: str, problem: Problem, variant: Variant) -> dict[str, object]:
    """Tensors on the meta device and numbers, by the names that the kernel of a direction has for them."""
    return _forward_arguments(problem) if direction == "forward" else _backward_arguments(problem, variant)


def _forward_arguments(problem: Problem) -> dict[str, object]:
    output = meta(*problem.samples.shape[:3], problem.value.shape[3], dtype=problem.value.dtype)
    return {"value": problem.value, **_named_inputs(problem), "output": output, **_named_sizes(problem)}


def _backward_arguments(problem: Problem, variant: Variant) -> dict[str, object]:
    value, compute = problem.value, problem.compute_dtype
    output = _forward_arguments(problem)["output"]
    native = variant.native and not variant.deterministic and value.element_size() == 2
    sums = launch.sums_dtype_of(problem, deterministic=variant.deterministic, native=False)
    needs_references = _needs_references(problem, variant)
    return {
        "grad_output": output,
        "output": output,
        "value": value,
        **_named_inputs(problem),
        "scale": meta(1, dtype=compute) if variant.deterministic else value,
        "grad_value": value.to(value.dtype if native else sums),
        "grad_references": problem.samples.to(compute) if needs_references else value,
        "grad_samples": problem.samples,
        "grad_logits": problem.logits,
        **_named_sizes(problem),
    }


def _needs_references(problem: Problem, variant: Variant) -> bool:
    return variant.needs_references and problem.references is not None


def _named_inputs(problem: Problem) -> dict[str, Tensor]:
    names = ("padding", "references", "samples", "logits")
    return dict(zip(names, launch.input_arguments(problem), strict=True))


def _named_sizes(problem: Problem) -> dict[str, object]:
    names = ("shapes", "size0", "size1", "size2", "size3", "size4", "size5", "S", "Q")
    return dict(zip(names, launch.size_arguments(problem), strict=True))


def _instructions_per_point(compiled: Compiled, config: Config, problem: Problem, target: str) -> float | None:
    """A point reads four cells, each in as many vectors a thread as the program's tile has over its threads."""
    width = compiled.gather_bytes
    if width <= problem.samples.element_size() or width not in compiled.loop_loads:
        return None
    threads = config.num_warps * TARGETS[target].warp_size
    channels = launch.block_d(problem.value.shape[3])
    vectors = max(1, config.block_q * channels * problem.value.element_size() // (threads * width))
    # Rounded down: a sample's two numbers may be one load as wide.
    turns = compiled.loop_loads[width] // (4 * vectors)
    return compiled.loop_instructions / turns if turns else None
