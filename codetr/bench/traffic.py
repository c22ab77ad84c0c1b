"""The least that has to be moved: each input read once, each output written once. And what is gathered."""

from __future__ import annotations

from typing import Literal

from codetr.bench.problems import Problem

Chain = Literal["op", "whole"]
"""op: locations and weights are given. whole: softmax, locations and padding belong to what is timed."""

CHAINS: tuple[Chain, ...] = ("op", "whole")


def forward_bytes(problem: Problem, chain: Chain) -> int:
    """Of the forward pass: value, points and output."""
    return _value(problem) * _itemsize(problem) + _points(problem, chain) + _output(problem)


def step_bytes(problem: Problem, chain: Chain) -> int:
    """Of the forward and the backward pass.

    The backward pass reads what the forward pass read and the gradient of the output (the whole chain also the output,
    for the softmax), writes the gradients of the points, and sums the gradient of value in float32: zeros written, sums
    written back, and for a 16-bit value read again and written in its type.
    """
    sums = 8 if _itemsize(problem) == 4 else 12 + _itemsize(problem)
    outputs = 2 if chain == "whole" else 1
    gradients = 3 * problem.samples * _itemsize(problem)
    if chain == "op":
        gradients += 2 * problem.samples * (4 - _itemsize(problem))  # of locations, which are float32
    backward = _value(problem) * _itemsize(problem) + _points(problem, chain) + outputs * _output(problem)
    return forward_bytes(problem, chain) + backward + gradients + _value(problem) * sums


def gathered_bytes(problem: Problem) -> int:
    """Of the forward pass: four rows of D channels for every point, if no cache keeps any."""
    return 4 * problem.samples * problem.channels * _itemsize(problem)


def _itemsize(problem: Problem) -> int:
    return problem.dtype.itemsize


def _value(problem: Problem) -> int:
    return problem.batch * problem.tokens * problem.heads * problem.channels


def _output(problem: Problem) -> int:
    return problem.batch * problem.rows * problem.heads * problem.channels * _itemsize(problem)


def _points(problem: Problem, chain: Chain) -> int:
    if chain == "op":
        return problem.samples * (2 * 4 + _itemsize(problem))
    references = problem.batch * problem.rows * len(problem.levels) * 2 * 4
    padding = problem.batch * problem.tokens
    return problem.samples * 3 * _itemsize(problem) + references + padding
