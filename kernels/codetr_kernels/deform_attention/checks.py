"""What the arguments of multi-scale deformable attention must look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Shapes: TypeAlias = "Sequence[tuple[int, int]] | Tensor"


_INTEGERS = (torch.int32, torch.int64)


def check(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> None:
    """Raises ValueError if the arguments of `deform_attention` do not fit together."""
    _check_value(value)
    _check_samples("locations", value, locations)
    if weights.shape != locations.shape[:-1]:
        raise ValueError(f"weights must be {tuple(locations.shape[:-1])} as locations, got {tuple(weights.shape)}")
    _check_shapes(value, shapes, locations.shape[3], "locations")
    _check_tensors(value=value, locations=locations, weights=weights)


def check_fused(
    value: Tensor, shapes: Shapes, references: Tensor, offsets: Tensor, logits: Tensor, padding: Tensor | None
) -> None:
    """Raises ValueError if the arguments of `deform_attention_fused` do not fit together."""
    _check_value(value)
    _check_samples("offsets", value, offsets)
    batch, queries, heads, levels, points, _ = offsets.shape
    if logits.shape != (batch, queries, heads, levels * points):
        expected = (batch, queries, heads, levels * points)
        raise ValueError(f"logits must be {expected}, one a sample of offsets, got {tuple(logits.shape)}")
    if references.shape[:-1] != (batch, queries, levels) or references.shape[-1] not in (2, 4):
        raise ValueError(
            f"references must be {(batch, queries, levels)} points (2) or boxes (4), got {tuple(references.shape)}"
        )
    _check_shapes(value, shapes, levels, "offsets")
    _check_tensors(value=value, references=references, offsets=offsets, logits=logits)
    if padding is not None:
        if padding.shape != value.shape[:2] or padding.dtype != torch.bool:
            raise ValueError(
                f"padding must be bool {tuple(value.shape[:2])}, got {padding.dtype} {tuple(padding.shape)}"
            )
        if padding.device != value.device:
            raise ValueError(f"one device needed, got value on {value.device}, padding on {padding.device}")


def check_accumulate(accumulate: str, *, deterministic: bool) -> None:
    """Raises ValueError for a name that is not "float32" or "native", and for two ways of summing at once."""
    if accumulate not in ("float32", "native"):
        raise ValueError(f'accumulate must be "float32" or "native", got {accumulate!r}')
    if deterministic and accumulate == "native":
        raise ValueError('deterministic=True sums in fixed point, accumulate="native" in 16 bits: choose one')


MOST_LEVELS, MOST_SAMPLES, MOST_CHANNELS = 6, 128, 256


def beyond_kernels(value: Tensor, samples: Tensor) -> str | None:
    """Why the Triton kernels do not take tensors of these sizes; None if they do. samples: (B, Q, H, L, P, 2)."""
    levels, points, channels = samples.shape[3], samples.shape[4], value.shape[3]
    if not 1 <= levels <= MOST_LEVELS:
        return f"they take 1 to {MOST_LEVELS} levels, not {levels}"
    if not 1 <= levels * points <= MOST_SAMPLES:
        return f"they take 1 to {MOST_SAMPLES} samples a query and head, not {levels * points}"
    if not 1 <= channels <= MOST_CHANNELS:
        return f"they take 1 to {MOST_CHANNELS} channels a head, not {channels}"
    return None


def _check_value(value: Tensor) -> None:
    if value.ndim != 4:
        raise ValueError(f"value must be (B, S, H, D), got {tuple(value.shape)}")


def _check_samples(name: str, value: Tensor, samples: Tensor) -> None:
    if samples.ndim != 6 or samples.shape[-1] != 2:
        raise ValueError(f"{name} must be (B, Q, H, L, P, 2), got {tuple(samples.shape)}")
    batch, _, heads, _ = value.shape
    if (samples.shape[0], samples.shape[2]) != (batch, heads):
        raise ValueError(
            f"value has batch {batch} and {heads} heads, "
            f"{name} has batch {samples.shape[0]} and {samples.shape[2]} heads"
        )


def _check_shapes(value: Tensor, shapes: Shapes, levels: int, name: str) -> None:
    if isinstance(shapes, Tensor) and (shapes.ndim != 2 or shapes.shape[1] != 2 or shapes.dtype not in _INTEGERS):
        raise ValueError(f"shapes must be int (L, 2), height then width, got {shapes.dtype} {tuple(shapes.shape)}")
    if len(shapes) != levels:
        raise ValueError(f"{len(shapes)} level shapes, but {name} has {levels} levels")
    if isinstance(shapes, Tensor):
        if shapes.device.type != "cpu":
            return  # The numbers are on the device, and asking for them would wait for it.
        shapes = [(height, width) for height, width in shapes.tolist()]
    if any(height <= 0 or width <= 0 for height, width in shapes):
        raise ValueError(f"every level needs a positive height and width, got {tuple(shapes)}")
    covered = sum(height * width for height, width in shapes)
    if covered != value.shape[1]:
        raise ValueError(f"level shapes {tuple(shapes)} cover {covered} tokens, value has {value.shape[1]}")


def _check_tensors(**tensors: Tensor) -> None:
    if not all(tensor.is_floating_point() for tensor in tensors.values()):
        raise ValueError(f"floating-point tensors needed, got {', '.join(str(t.dtype) for t in tensors.values())}")
    if len({tensor.device for tensor in tensors.values()}) > 1:
        raise ValueError(f"one device needed, got {', '.join(str(t.device) for t in tensors.values())}")
