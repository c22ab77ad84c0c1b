"""Who is measured: this package's kernels and their peers, those that can be imported."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from codetr_kernels.backend import which_backend
from codetr_kernels.deform_attention import (
    deform_attention,
    deform_attention_fused,
    deform_attention_fused_reference,
    deform_attention_reference,
    sampling_locations,
)
from torch import Tensor

from codetr.bench.original import can_compile, level_tensors, original
from codetr.errors import UserError, suggestion

Shapes = tuple[tuple[int, int], ...]
Op = Callable[[Tensor, Shapes, Tensor, Tensor], Tensor]
Whole = Callable[[Tensor, Shapes, Tensor, Tensor, Tensor, Tensor], Tensor]

OURS = "codetr"


@dataclass(frozen=True)
class Candidate:
    """op: signature of `deform_attention`. whole: that of `deform_attention_fused`. note: what a reader must know."""

    name: str
    op: Op
    whole: Whole
    note: str = ""


@dataclass(frozen=True)
class Absent:
    """A peer that cannot be measured here, and why."""

    name: str
    reason: str


def find_candidates(
    device: torch.device, *, peers: Sequence[str] = (), without: Sequence[str] = ()
) -> tuple[list[Candidate], list[Absent]]:
    """Everyone who can be measured on a device, ours first, and those who cannot. peers: further `module:function`.

    Raises:
        UserError: `without` names nobody, or one of `peers` cannot be imported.
    """
    for name in without:
        if name not in _MAKERS:
            raise UserError(f"--without {name}: nobody is called so; {suggestion(name, _MAKERS, kind='names')}")
    found: list[Candidate] = []
    absent: list[Absent] = []
    for name, make in _MAKERS.items():
        if name in without:
            continue
        try:
            found.append(make(device))
        except (ImportError, OSError) as error:  # OSError: an extension built for another torch does not load.
            absent.append(Absent(name, str(error).partition("\n")[0]))
    return found + [_custom(peer) for peer in peers], absent


def whole_of(op: Op) -> Whole:
    """The chain around an operation in PyTorch, as models write it: padding, locations and softmax in float32."""

    def whole(
        value: Tensor, shapes: Shapes, references: Tensor, offsets: Tensor, logits: Tensor, padding: Tensor
    ) -> Tensor:
        locations = sampling_locations(offsets.float(), references.float(), shapes)
        weights = logits.float().softmax(-1).view(offsets.shape[:-1])
        return op(value.masked_fill(padding[:, :, None, None], 0.0), shapes, locations, weights)

    return whole


def _ours(device: torch.device) -> Candidate:
    return Candidate(OURS, deform_attention, deform_attention_fused, str(which_backend(device)))


def _reference(device: torch.device) -> Candidate:
    return Candidate("reference", deform_attention_reference, deform_attention_fused_reference, "grid_sample, eager")


def _compiled(device: torch.device) -> Candidate:
    # Static shapes: one compilation a problem, which `torch.compiler.reset` between problems keeps from running out.
    compile_ = functools.partial(torch.compile, dynamic=False, fullgraph=True)
    op, whole = compile_(deform_attention_reference), compile_(deform_attention_fused_reference)
    return Candidate("compiled", op, whole, "grid_sample under torch.compile")


def _transformers(device: torch.device) -> Candidate:
    modeling = importlib.import_module("transformers.models.deformable_detr.modeling_deformable_detr")
    module = modeling.MultiScaleDeformableAttention()

    def op(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        sides, starts = level_tensors(shapes, value.device, torch.int64)
        output: Tensor = module(value.float(), sides, list(shapes), starts, locations, weights.float(), 64)
        return output.to(value.dtype)

    return _float32("transformers", op)


def _deformops(device: torch.device) -> Candidate:
    importlib.import_module("deformops.registry")

    def call(name: str, value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        sides, starts = level_tensors(shapes, value.device, torch.int64)
        flat = weights.flatten(3).to(value.dtype)
        output: Tensor = getattr(torch.ops.deformops, name)(value, sides, starts, locations, flat)
        return output

    def whole(
        value: Tensor, shapes: Shapes, references: Tensor, offsets: Tensor, logits: Tensor, padding: Tensor
    ) -> Tensor:
        locations = sampling_locations(offsets.float(), references.float(), shapes)
        masked = value.masked_fill(padding[:, :, None, None], 0.0)
        return call("msda_softmax", masked, shapes, locations, logits)

    return Candidate("deformops", functools.partial(call, "msda"), whole, "its own choice of backend, its own softmax")


def _mmcv(device: torch.device) -> Candidate:
    _needs_gpu(device)
    function: Any = importlib.import_module("mmcv.ops.multi_scale_deform_attn").MultiScaleDeformableAttnFunction
    return _float32("mmcv", _authors_form(function.apply))


def _extension(device: torch.device) -> Candidate:
    _needs_gpu(device)
    module = importlib.import_module("MultiScaleDeformableAttention")

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Tensor:
            ctx.save_for_backward(*arguments[:5])
            output: Tensor = module.ms_deform_attn_forward(*arguments)
            return output

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            saved = ctx.saved_tensors
            value, locations, weights = module.ms_deform_attn_backward(*saved, grad.contiguous(), saved[0].shape[0])
            return value, None, None, locations, weights, None

    return _float32("extension", _authors_form(Function.apply))


def _authors_form(function: Callable[..., Tensor]) -> Op:
    """Of a function of value, sizes, starts, locations, weights and images a step, float32 and contiguous."""

    def op(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        sides, starts = level_tensors(shapes, value.device, torch.int64)
        wide, weight = value.float().contiguous(), weights.float().contiguous()
        return function(wide, sides, starts, locations, weight, value.shape[0]).to(value.dtype)

    return op


def _original_style(device: torch.device) -> Candidate:
    _needs_gpu(device)
    if not can_compile(device):
        raise ImportError("it is compiled by NVRTC, for NVIDIA GPUs")
    return _float32("original-style", original)


def _float32(name: str, op: Op) -> Candidate:
    return Candidate(name, op, whole_of(op), "float32; 16-bit inputs are cast, which is timed")


def _needs_gpu(device: torch.device) -> None:
    if device.type != "cuda":
        raise ImportError("it runs on a GPU alone")


def _custom(peer: str) -> Candidate:
    module, separator, name = peer.partition(":")
    if not (module and separator and name):
        raise UserError(f"--peer {peer}: write MODULE:FUNCTION, a function with the signature of deform_attention")
    try:
        function: Op = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"--peer {peer}: cannot be imported ({error}). Check the name and PYTHONPATH.") from error
    return Candidate(peer, function, whole_of(function))


_MAKERS: dict[str, Callable[[torch.device], Candidate]] = {
    OURS: _ours,
    "reference": _reference,
    "compiled": _compiled,
    "transformers": _transformers,
    "deformops": _deformops,
    "mmcv": _mmcv,
    "extension": _extension,
    "original-style": _original_style,
}


def names() -> Iterator[str]:
    """Everyone who is known."""
    yield from _MAKERS
