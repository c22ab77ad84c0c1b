"""The run: each candidate on each problem, checked and then timed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from codetr.bench.candidates import OURS, Candidate
from codetr.bench.ceilings import Ceilings
from codetr.bench.correctness import Check, Truth, call, check, find_truth, operands
from codetr.bench.problems import Inputs, Problem, make_inputs
from codetr.bench.timing import Times, measure, peak_bytes
from codetr.bench.traffic import CHAINS, Chain, forward_bytes, gathered_bytes, step_bytes

Status = Literal["timed", "wrong", "failed", "left out"]


@dataclass(frozen=True)
class Row:
    """One candidate on one problem. Times in milliseconds, rates in bytes a second, memory in bytes.

    status: wrong if it is not what float64 says, failed if it raised (reason: what), left out if time had run out.
    step: forward and backward; backward: the difference of the medians. *_rate: the least traffic by the time.
    of_copy: the share of a large copy's rate; of_gather: rows read by the forward pass, as a share of random reads.
    """

    problem: str
    chain: Chain
    candidate: str
    status: Status
    reason: str = ""
    errors: dict[str, float] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    forward: Times | None = None
    step: Times | None = None
    backward: float | None = None
    forward_rate: float | None = None
    forward_of_copy: float | None = None
    forward_of_gather: float | None = None
    step_rate: float | None = None
    step_of_copy: float | None = None
    peak_memory: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def run(
    problems: Sequence[Problem],
    candidates: Sequence[Candidate],
    ceilings: Ceilings,
    device: torch.device,
    *,
    quick: bool,
    seconds: float | None = None,
) -> Iterator[Row]:
    """Check and time every candidate on every problem, by the operation alone and by the whole chain.

    seconds: after so many, what is left is reported as left out.
    """
    end = None if seconds is None else time.monotonic() + seconds
    for problem in problems:
        torch.compiler.reset()  # One graph a problem, instead of the limit of graphs that torch keeps.
        inputs = None
        for chain in CHAINS:
            truth = None
            for candidate in candidates:
                if end is not None and time.monotonic() > end:
                    yield Row(problem.name, chain, candidate.name, "left out", "out of time")
                    continue
                inputs = inputs or make_inputs(problem, device)
                truth = truth or find_truth(inputs, chain)
                yield _row(problem, inputs, chain, candidate, truth, ceilings, device, quick=quick)


def grouped(rows: Iterator[Row]) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each problem and chain together, with the problem's name, as soon as they are complete."""
    for (name, _), group in itertools.groupby(rows, key=lambda row: (row.problem, row.chain)):
        yield name, list(group)


def _row(
    problem: Problem,
    inputs: Inputs,
    chain: Chain,
    candidate: Candidate,
    truth: Truth,
    ceilings: Ceilings,
    device: torch.device,
    *,
    quick: bool,
) -> Row:
    checked: Check | None = None
    try:
        checked = check(candidate, inputs, chain, truth)
        if checked.faults:
            reason = "; ".join(checked.faults)
            return Row(problem.name, chain, candidate.name, "wrong", reason, checked.errors, checked.limits)
        return _timed(problem, inputs, chain, candidate, checked, ceilings, device, quick=quick)
    except Exception as error:
        # A peer's failure is a result, and is reported as one; ours is a defect of this package.
        if candidate.name == OURS:
            raise
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        return Row(problem.name, chain, candidate.name, "failed", reason, checked.errors if checked else {})


def _timed(
    problem: Problem,
    inputs: Inputs,
    chain: Chain,
    candidate: Candidate,
    checked: Check,
    ceilings: Ceilings,
    device: torch.device,
    *,
    quick: bool,
) -> Row:
    budget = 0.05 if quick else 0.4
    forward_call, step_call = calls(candidate, inputs, chain)
    forward = measure(forward_call, device, seconds=budget)
    step = measure(step_call, device, seconds=budget)
    forward_rate = 1000 * forward_bytes(problem, chain) / forward.median
    step_rate = 1000 * step_bytes(problem, chain) / step.median
    gather = ceilings.gather.get(problem.channels * problem.dtype.itemsize)
    return Row(
        problem.name,
        chain,
        candidate.name,
        "timed",
        errors=checked.errors,
        limits=checked.limits,
        forward=forward,
        step=step,
        backward=step.median - forward.median,
        forward_rate=forward_rate,
        forward_of_copy=forward_rate / ceilings.copy,
        forward_of_gather=None if gather is None else 1000 * gathered_bytes(problem) / forward.median / gather,
        step_rate=step_rate,
        step_of_copy=step_rate / ceilings.copy,
        peak_memory=peak_bytes(step_call, device),
    )


def calls(candidate: Candidate, inputs: Inputs, chain: Chain) -> tuple[Callable[[], object], Callable[[], object]]:
    """A forward pass without gradients, and a forward and backward pass.

    References get no gradient: models detach them between layers, and those of an encoder are constants.
    """
    constants = {name: tensor.detach() for name, tensor in operands(inputs, chain).items()}
    leaves = {name: t if name == "references" else t.clone().requires_grad_() for name, t in constants.items()}
    wanted = [tensor for tensor in leaves.values() if tensor.requires_grad]

    def forward() -> object:
        with torch.no_grad():
            return call(candidate, inputs, chain, constants)

    def step() -> object:
        return torch.autograd.grad(call(candidate, inputs, chain, leaves), wanted, inputs.grad)

    return forward, step
