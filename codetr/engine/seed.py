"""Random numbers as a function of (seed, rank, step), so that resuming at any step is exact and needs no state."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_all(seed: int, *stream: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators, those of all devices too, from a seed and numbers such as a
    rank and a step."""
    state = np.random.SeedSequence([seed, *stream]).generate_state(2, dtype=np.uint64)
    random.seed(int(state[0]))
    np.random.seed(int(state[0] & np.uint64(0xFFFFFFFF)))
    torch.manual_seed(int(state[1] >> np.uint64(1)))


@contextmanager
def deterministic(*, active: bool) -> Iterator[None]:
    """Within this block only operations run that give the same bits every time; one that cannot is an error.

    Without `active` nothing changes.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if active:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when a GPU is first used
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
