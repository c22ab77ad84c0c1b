"""Random numbers as a function of seed, rank and step."""

from __future__ import annotations

import random

import numpy as np
import torch

from codetr.engine.seed import seed_all


def draw(*numbers: int) -> tuple[float, float, float]:
    seed_all(*numbers)
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_every_generator_follows() -> None:
    assert draw(1, 2, 3) == draw(1, 2, 3)
    for other in ((0, 2, 3), (1, 0, 3), (1, 2, 0)):
        assert all(a != b for a, b in zip(draw(1, 2, 3), draw(*other), strict=True)), other
