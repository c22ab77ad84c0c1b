"""From tensors to a launch: constants, grid, configuration, buffers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from codetr_kernels.backend import interpreted
from codetr_kernels.deform_attention.triton.backward import backward_kernel
from codetr_kernels.deform_attention.triton.configs import MANY_QUERIES, Config, Direction, ShapeClass, choose
from codetr_kernels.deform_attention.triton.forward import forward_kernel
from codetr_kernels.launching import device_of

NO_LEVEL = (1 << 32) | 1
"""Fills the six scalars beyond the last level."""


class Problem(NamedTuple):
    """The inputs of one call, contiguous. sides: height and width of each level in turn; empty if `shapes` holds them.

    references: None where samples are locations and logits are weights.
    """

    value: Tensor
    sides: Sequence[int]
    shapes: Tensor | None
    references: Tensor | None
    samples: Tensor
    logits: Tensor
    padding: Tensor | None

    def contiguous(self) -> Problem:
        """The kernels compute addresses from sizes alone; anything strided is copied first."""
        value, sides, shapes, references, samples, logits, padding = self
        return Problem(
            value.contiguous(),
            sides,
            None if shapes is None else shapes.contiguous(),
            None if references is None else references.contiguous(),
            samples.contiguous(),
            logits.contiguous(),
            None if padding is None else padding.contiguous(),
        )

    @property
    def form(self) -> int:
        """REF of the kernels: 0 locations, 2 points, 4 boxes."""
        return 0 if self.references is None else self.references.shape[-1]

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of arithmetic and sums: float32, or float64 where value or the placement is."""
        placed = self.samples if self.references is None else self.references
        return torch.promote_types(torch.promote_types(self.value.dtype, placed.dtype), torch.float32)


def forward(problem: Problem) -> Tensor:
    """(B, Q, H * D), in the dtype of value."""
    problem = problem.contiguous()
    value, samples = problem.value, problem.samples
    output = value.new_empty(value.shape[0], samples.shape[1], value.shape[2] * value.shape[3])
    if output.numel() == 0:
        return output
    config = choose(_shape_class(problem, "forward"))
    with device_of(value):
        forward_kernel[_grid(problem, config)](
            value,
            *input_arguments(problem),
            output,
            *size_arguments(problem),
            **constants(problem),
            **launch_options(config, use_tiles=tiles_fit(problem)),
        )
    return output


class Gradients(NamedTuple):
    """Of value, references, samples, logits; None where not asked for."""

    value: Tensor | None
    references: Tensor | None
    samples: Tensor
    logits: Tensor


def backward(
    problem: Problem,
    grad: Tensor,
    output: Tensor | None,
    *,
    needs_value: bool,
    needs_references: bool,
    deterministic: bool,
    native: bool,
) -> Gradients:
    """grad, output: (B, Q, H * D). output may be None for locations and weights. The flags: as `deform_attention`."""
    problem = problem.contiguous()
    value, samples, logits = problem.value, problem.samples, problem.logits
    grad = grad.contiguous()
    sums_dtype = sums_dtype_of(problem, deterministic=deterministic, native=native)
    sums = torch.zeros(value.shape, dtype=sums_dtype, device=value.device) if needs_value else None
    parts = None
    if problem.references is not None and needs_references:
        batch, queries, levels, width = problem.references.shape
        parts = grad.new_zeros(batch, queries, value.shape[2], levels, width, dtype=problem.compute_dtype)
    scale = fixed_point_scale(problem, grad) if deterministic and needs_value else None
    grad_samples, grad_logits = torch.empty_like(samples), torch.empty_like(logits)
    if grad.numel():
        config = choose(_shape_class(problem, "backward"))
        unused = value  # A pointer that the kernel is compiled not to follow.
        with device_of(value):
            backward_kernel[_grid(problem, config)](
                grad,
                unused if output is None else output.contiguous(),
                value,
                *input_arguments(problem),
                unused if scale is None else scale,
                unused if sums is None else sums,
                unused if parts is None else parts,
                grad_samples,
                grad_logits,
                *size_arguments(problem),
                **constants(problem),
                NEEDS_VALUE=sums is not None,
                NEEDS_REFERENCES=parts is not None,
                FIXED=scale is not None,
                **launch_options(config, use_tiles=tiles_fit(problem)),
            )
    return Gradients(
        None if sums is None else _to_value_dtype(sums, scale, problem),
        None if parts is None or problem.references is None else parts.sum(2).to(problem.references.dtype),
        grad_samples,
        grad_logits,
    )


def fixed_point_scale(problem: Problem, grad: Tensor) -> Tensor:
    """The power of two by which contributions to the gradient of value are multiplied before they become integers.

    One query adds at most its largest gradient times the sum of its weights' sizes to a cell (bilinear shares sum to
    one), and Q queries Q times that: scaled to 2**61, no sum of 64 bits overflows. For 22,000 queries that leaves 46
    bits to the largest contribution, where float32 has 24.
    """
    dtype = problem.compute_dtype
    bound = grad.abs().amax().to(dtype) * problem.samples.shape[1] if grad.numel() else grad.new_zeros((), dtype=dtype)
    if problem.references is None:
        bound = bound * problem.logits.to(dtype).abs().sum((-1, -2)).amax() if grad.numel() else bound
    exponent = torch.floor(61 - torch.log2(bound)).clamp(max=120)
    return torch.exp2(exponent)


def constants(problem: Problem) -> dict[str, object]:
    """What both kernels are compiled for, beside the configuration."""
    _, tokens, heads, channels = problem.value.shape
    queries, levels, points = problem.samples.shape[1], *problem.samples.shape[3:5]
    largest = max(tokens * heads * channels, queries * heads * max(channels, 2 * levels * points))
    return {
        "H": heads,
        "D": channels,
        "L": levels,
        "P": points,
        "REF": problem.form,
        "PADDED": problem.padding is not None,
        "ON_HOST": problem.shapes is None,
        "WIDE": largest >= 2**31,
        "ACC": tl.float64 if problem.compute_dtype == torch.float64 else tl.float32,
        "BLOCK_D": block_d(channels),
        "BLOCK_LP": triton.next_power_of_2(levels * points),
    }


def block_d(channels: int) -> int:
    """Channels of a program's tile: the head dimension, rounded up to a power of two, at least 8."""
    return max(8, int(triton.next_power_of_2(channels)))


def launch_options(config: Config, *, use_tiles: bool) -> dict[str, object]:
    """A configuration as the kernels and Triton take it."""
    return {
        "BLOCK_Q": config.block_q,
        "UNROLL": config.unroll,
        "TILE_W": config.tile_w if use_tiles else 0,
        "num_warps": config.num_warps,
        "num_stages": 1,
        "enable_fp_fusion": True,  # The default, in some versions of Triton.
    }


def architecture(device: torch.device) -> str:
    """The table that serves a device: of its own generation, or of the newest one before it."""
    if interpreted():
        return "interpreter"
    if torch.version.hip is not None:
        return "gfx942"
    major = torch.cuda.get_device_capability(device)[0]
    return "sm_80" if major < 9 else "sm_90" if major < 10 else "sm_100"


def _shape_class(problem: Problem, direction: Direction) -> ShapeClass:
    value = problem.value
    many = value.shape[0] * problem.samples.shape[1] >= MANY_QUERIES
    return ShapeClass(architecture(value.device), direction, value.element_size(), block_d(value.shape[3]), many)


def input_arguments(problem: Problem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    unused = problem.value
    padding = unused if problem.padding is None else problem.padding.view(torch.uint8)
    return padding, unused if problem.references is None else problem.references, problem.samples, problem.logits


def size_arguments(problem: Problem) -> tuple[object, ...]:
    """Arguments from `shapes` to Q."""
    sides = problem.sides
    packed = [height << 32 | width for height, width in zip(sides[::2], sides[1::2], strict=True)]
    padded = packed + [NO_LEVEL] * (6 - len(packed))
    shapes = problem.value if problem.shapes is None else problem.shapes
    return shapes, *padded, problem.value.shape[1], problem.samples.shape[1]


def tiles_fit(problem: Problem) -> bool:
    """Whether the queries are as many as the cells of the levels: then they are taken to lie on them, as in encoders.

    Whatever they are, any order of them is right; and without the sizes on the host the number of tiles is unknown.
    """
    return problem.shapes is None and problem.samples.shape[1] == problem.value.shape[1]


def _grid(problem: Problem, config: Config) -> tuple[int, int, int]:
    batch, _, heads, _ = problem.value.shape
    if config.tile_w and tiles_fit(problem):
        rows, columns = config.block_q // config.tile_w, config.tile_w
        sides = zip(problem.sides[::2], problem.sides[1::2], strict=True)
        blocks = sum(-(-height // rows) * -(-width // columns) for height, width in sides)
    else:
        blocks = -(-problem.samples.shape[1] // config.block_q)
    return blocks, heads, batch


def sums_dtype_of(problem: Problem, *, deterministic: bool, native: bool) -> torch.dtype:
    if deterministic:
        return torch.int64
    if not native or problem.value.element_size() != 2:
        return problem.compute_dtype
    if architecture(problem.value.device) not in ("sm_90", "sm_100", "interpreter"):
        raise ValueError(
            'accumulate="native" needs compute capability 9.0 or newer, where 16-bit vector atomics exist; '
            'on older GPUs they are loops: use accumulate="float32"'
        )
    return problem.value.dtype


def _to_value_dtype(sums: Tensor, scale: Tensor | None, problem: Problem) -> Tensor:
    if scale is None:
        return sums.to(problem.value.dtype)
    # A gradient that is no number leaves none elsewhere either: the integers that it was made into mean nothing.
    inverse = torch.where(scale > 0, 1 / scale, float("nan"))
    return (sums.to(problem.compute_dtype) * inverse).to(problem.value.dtype)
