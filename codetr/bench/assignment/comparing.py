"""How far results may be from float64."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

UNIT = 2.0**-24
"""The unit roundoff of float32."""

STRAY = 2e-5
"""Share of decisions that may differ from float64's, and one at least: a decision by a number within some 32 roundings
of another (2e-6 of it) may go either way, and one prior or none of 44,446 is so near. A rule that is left out is seen:
each concerns at least one prior of each object."""


def beyond(results: Mapping[str, tuple[Tensor, Tensor]], *, limit: float) -> str | None:
    """The first of results and truths by name whose error, as a share of the truth's largest number, is beyond a limit.

    A result in 16 bits may be off by one rounding of its own beside that.
    """
    for name, (result, truth) in results.items():
        if result.shape != truth.shape:
            return f"{name}: {tuple(result.shape)} instead of {tuple(truth.shape)}"
        own = limit + (torch.finfo(result.dtype).eps if result.dtype in (torch.bfloat16, torch.float16) else 0.0)
        error = float((result.double() - truth).abs().max() / truth.abs().max().clamp(min=1e-30))
        if not error <= own:
            return f"{name}: error {error:.1e}, limit {own:.1e}"
    return None


def differing(result: Tensor, truth: Tensor, *, free: Tensor | None = None) -> str | None:
    """Whether decisions (B, P) are others than those of float64, but for those that rounding decides.

    free: (B, P) bool, which those are; None: not known, `STRAY` of all.
    """
    if result.shape != truth.shape or result.dtype != truth.dtype:
        return f"{result.dtype} {tuple(result.shape)} instead of {truth.dtype} {tuple(truth.shape)}"
    is_wrong = result != truth if free is None else (result != truth) & ~free
    wrong, allowed = int(is_wrong.sum()), max(1, int(STRAY * truth.numel())) if free is None else 0
    return f"{wrong} of {truth.numel()} decisions differ, limit {allowed}" if wrong > allowed else None
