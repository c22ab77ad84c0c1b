"""The least traffic, against figures worked out by hand."""

from __future__ import annotations

import torch

from codetr.bench.problems import Problem, paper_problems
from codetr.bench.traffic import forward_bytes, gathered_bytes, step_bytes

# S = 6, Q = 2, H = 1, D = 4, L = 1, P = 2, B = 1: 24 numbers of value, 8 of output, 4 samples.
SMALL = {short: Problem("small", ((2, 3),), 1, 2, dtype, heads=1, channels=4, points=2)
         for short, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}  # fmt: skip


def test_forward() -> None:
    assert forward_bytes(SMALL["fp32"], "op") == 4 * (24 + 4 * 3 + 8)
    # Locations are float32.
    assert forward_bytes(SMALL["bf16"], "op") == 2 * 24 + 4 * (8 + 2) + 2 * 8
    # Two float32 references of a query and level, one byte of padding a token.
    assert forward_bytes(SMALL["bf16"], "whole") == 2 * 24 + 2 * 4 * 3 + 4 * 2 * 2 + 6 + 2 * 8


def test_forward_and_backward() -> None:
    # Read again, with the gradient of the output; gradients of points written; value's set to zero and written.
    backward = 4 * (24 + 4 * 3 + 8) + 4 * 4 * 3 + 8 * 24
    assert step_bytes(SMALL["fp32"], "op") == forward_bytes(SMALL["fp32"], "op") + backward
    # The output is read too, and value's float32 sums are read and written as 16 bits.
    backward = forward_bytes(SMALL["bf16"], "whole") + 2 * 8 + 2 * 4 * 3 + (4 + 4 + 4 + 2) * 24
    assert step_bytes(SMALL["bf16"], "whole") == forward_bytes(SMALL["bf16"], "whole") + backward


def test_four_corners_of_every_sample_are_gathered() -> None:
    assert gathered_bytes(SMALL["bf16"]) == 4 * 4 * 4 * 2
    encoder = next(problem for problem in paper_problems() if problem.name == "encoder-l4-b2-bf16")
    assert encoder.samples == 2 * 22_223 * 8 * 16
    assert gathered_bytes(encoder) == 1_456_406_528
