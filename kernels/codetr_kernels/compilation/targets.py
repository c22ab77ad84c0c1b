"""The GPUs that kernels can be compiled for, by the names of the tables of configurations."""

from __future__ import annotations

import difflib
from types import MappingProxyType

from triton.backends.compiler import GPUTarget

TARGETS = MappingProxyType(
    {
        "sm_80": GPUTarget("cuda", 80, 32),
        "sm_90": GPUTarget("cuda", 90, 32),
        "sm_100": GPUTarget("cuda", 100, 32),
        "gfx942": GPUTarget("hip", "gfx942", 64),
    }
)
"""Ampere (A100), Hopper (H100, H200), Blackwell (B200), CDNA 3 (MI300)."""


def target(name: str) -> GPUTarget:
    """The target of a name. Raises ValueError for a name that is not in `TARGETS`, with the nearest ones."""
    if name not in TARGETS:
        nearest = difflib.get_close_matches(name, TARGETS, n=2, cutoff=0.5)
        hint = f", nearest: {' and '.join(nearest)}" if nearest else ""
        raise ValueError(f"unknown target {name!r}, expected one of {', '.join(TARGETS)}{hint}")
    return TARGETS[name]
