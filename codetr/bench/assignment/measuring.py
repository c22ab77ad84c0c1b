"""The run: everyone on every case, checked and then timed. What is wrong is not timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from codetr.bench.assignment.case import OURS, Case, Inputs, Run
from codetr.bench.timing import Times, measure, peak_bytes

Status = Literal["timed", "wrong", "failed", "left out", "absent"]


@dataclass(frozen=True)
class Row:
    """One candidate on one case. Times in milliseconds, memory in bytes.

    status: wrong if it is not what float64 says, failed if it raised, left out if time had run out, absent if it cannot
    be measured here; reason: why. forward: without gradients. step: forward and backward, where there is a backward.
    forward_ratio, step_ratio: the peer's median by this one's, how many times as fast this one is.
    """

    op: str
    case: str
    candidate: str
    status: Status
    peer: str
    reason: str = ""
    forward: Times | None = None
    step: Times | None = None
    forward_ratio: float | None = None
    step_ratio: float | None = None
    peak_memory: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def is_defect(self) -> bool:
        """Whether this package does not do what it says."""
        return self.candidate == OURS and self.status in ("wrong", "failed")


def run(
    cases: Sequence[Case],
    device: torch.device,
    *,
    quick: bool,
    without: Sequence[str] = (),
    seconds: float | None = None,
) -> Iterator[list[Row]]:
    """The rows of each case, as soon as they are complete. seconds: after so many, what is left is left out."""
    end = None if seconds is None else time.monotonic() + seconds
    for case in cases:
        torch.compiler.reset()  # One graph a case, instead of the limit of graphs that torch keeps.
        yield with_ratios(list(_case_rows(case, device, end, quick=quick, without=without)))


def with_ratios(rows: list[Row]) -> list[Row]:
    """The rows of one case, with their speeds beside the peer's where both were timed."""
    peers = [row for row in rows if row.candidate == row.peer]
    if not peers:
        return rows
    forward, step = peers[0].forward, peers[0].step
    return [replace(row, forward_ratio=_ratio(forward, row.forward), step_ratio=_ratio(step, row.step)) for row in rows]


def _ratio(peer: Times | None, own: Times | None) -> float | None:
    return None if peer is None or own is None else peer.median / own.median


def _case_rows(
    case: Case, device: torch.device, end: float | None, *, quick: bool, without: Sequence[str]
) -> Iterator[Row]:
    inputs: Inputs | None = None
    truth: Any = None
    for name, maker in case.people.items():
        if name in without:
            continue
        row = Row(case.op, case.name, name, "absent", case.peer)
        try:
            person = maker(device)
        except (ImportError, OSError) as error:  # OSError: an extension built for another torch does not load.
            yield replace(row, reason=_first_line(error))
            continue
        if end is not None and time.monotonic() > end:
            yield replace(row, status="left out", reason="out of time")
            continue
        if inputs is None:
            inputs = case.make(device)
            truth = case.truth(inputs)
        yield _measured(row, case, person, inputs, truth, device, quick=quick)


def _measured(
    row: Row, case: Case, person: Run, inputs: Inputs, truth: Any, device: torch.device, *, quick: bool
) -> Row:
    """A failure is a result too, ours as well: the others are measured all the same."""
    forward, step = calls(case, person, inputs)
    try:
        fault = case.check((step or forward)(), truth)
        if fault is not None:
            return replace(row, status="wrong", reason=fault)
        budget = 0.03 if quick else 0.15
        return replace(
            row,
            status="timed",
            forward=measure(forward, device, seconds=budget),
            step=None if step is None else measure(step, device, seconds=budget),
            peak_memory=peak_bytes(step or forward, device),
        )
    except Exception as error:
        return replace(row, status="failed", reason=f"{type(error).__name__}: {_first_line(error)}")


def calls(case: Case, person: Run, inputs: Inputs) -> tuple[Callable[[], Any], Callable[[], Any] | None]:
    """The operation without gradients, and (output, *gradients) of both passes if the case has any."""

    def forward() -> Any:
        with torch.no_grad():
            return person(inputs)

    if not case.gradients:
        return forward, None
    leaves = {name: inputs[name].detach().clone().requires_grad_() for name in case.gradients}

    def step() -> Any:
        output = person({**inputs, **leaves})
        gradients = torch.autograd.grad(output, list(leaves.values()), inputs["grad"])
        return (output.detach(), *gradients)

    return forward, step


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
