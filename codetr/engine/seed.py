"""Random numbers as a function of (seed, rank, step), so that resuming at any step is exact and needs no state."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_all(seed: int, *stream: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators, those of all devices too, from a seed and numbers such as a
    rank and a step."""
    state = np.random.SeedSequence([seed, *stream]).generate_state(2, dtype=np.uint64)
    random.seed(int(state[0]))
    np.random.seed(int(state[0] & np.uint64(0xFFFFFFFF)))
    torch.manual_seed(int(state[1] >> np.uint64(1)))
