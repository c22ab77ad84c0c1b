"""What a run of `codetr bench kernels` measures, and whether what was asked for is there."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from codetr.bench import candidates
from codetr.bench import problems as attention
from codetr.bench.assignment import selection
from codetr.bench.assignment.case import Case
from codetr.bench.compiled import ATTENTION, OPS
from codetr.bench.problems import Problem
from codetr.errors import UserError, nearest, suggestion

FEW = ("encoder-l4-b2-*", "decoder900-l4-b2-*")
"""Problems of deformable attention on a GPU when all operations are measured."""

SLOW_ON_CPU = "compiled"
"""Who is left out on a CPU unless asked for: compiling takes it up to a minute a problem."""


@dataclass(frozen=True)
class Plan:
    """problems: of deformable attention. cases: of the other operations. without: who is left out."""

    problems: list[Problem]
    cases: list[Case]
    without: tuple[str, ...]


def choose_ops(patterns: Sequence[str]) -> list[str]:
    """The operations that are called so, all by default; `*` stands for anything.

    Raises:
        UserError: none is called so.
    """
    for pattern in patterns:
        if not fnmatch.filter(OPS, pattern):
            raise UserError(f"--op {pattern}: no operation is called so; {suggestion(pattern, OPS, kind='operations')}")
    return [op for op in OPS if not patterns or _matches(op, patterns)]


def make_plan(
    *,
    ops: Sequence[str] = (),
    patterns: Sequence[str] = (),
    device: torch.device,
    quick: bool,
    without: Sequence[str] = (),
    including: Sequence[str] = (),
) -> Plan:
    """ops, patterns: of operations, and of problems and cases; `*` stands for anything.

    Without patterns: what suits the device, and of deformable attention a few problems unless `ops` names it.

    Raises:
        UserError: nothing or nobody is called so, or an operation or a name would have no effect.
    """
    chosen = choose_ops(ops)
    _check_patterns(chosen, patterns)
    cases = selection.select(chosen, patterns, device=device, quick=quick)
    problems = _problems(chosen, patterns, device, quick=quick, few=not ops)
    idle = [op for op in (chosen if ops else ()) if not (problems if op == ATTENTION else _of(op, cases))]
    if idle:
        raise UserError(f"--op {', '.join(idle)}: none of --problem {', '.join(patterns)} is of it. Leave one out.")
    known = [*(candidates.names() if problems else ()), *selection.names(cases)]
    for option, names in (("--without", without), ("--with", including)):
        for name in names:
            if name not in known:
                raise UserError(f"{option} {name}: nobody is called so; {suggestion(name, set(known), kind='names')}")
    is_left_out = device.type == "cpu" and SLOW_ON_CPU in known and SLOW_ON_CPU not in without
    for name in including:
        if name != SLOW_ON_CPU or not is_left_out:
            raise UserError(f"--with {name}: has no effect; it brings {SLOW_ON_CPU} into a run on a CPU")
    slow = (SLOW_ON_CPU,) if is_left_out and not including else ()
    return Plan(problems, cases, (*without, *slow))


def listing(ops: Sequence[str], plan: Plan) -> list[tuple[str, list[tuple[bool, str, str]]]]:
    """Of each operation its problems or cases: whether the plan measures it, its name and its shape."""
    measured = {problem.name for problem in plan.problems} | {case.name for case in plan.cases}
    found = []
    for op in ops:
        entries = (
            [(problem.name, _shape(problem)) for problem in _known_problems()]
            if op == ATTENTION
            else [(case.name, case.shape) for case in _of(op, selection.all_cases())]
        )
        found.append((op, [(name in measured, name, shape) for name, shape in entries]))
    return found


def _problems(
    ops: Sequence[str], patterns: Sequence[str], device: torch.device, *, quick: bool, few: bool
) -> list[Problem]:
    if ATTENTION not in ops:
        return []
    if patterns:
        names = [problem.name for problem in _known_problems()]
        own = [pattern for pattern in patterns if fnmatch.filter(names, pattern)]
        return attention.select(own, device=device, quick=quick) if own else []
    if few and device.type == "cuda" and not quick:
        return attention.select(FEW, device=device, quick=quick)
    return attention.select((), device=device, quick=quick or few)


def _check_patterns(ops: Sequence[str], patterns: Sequence[str]) -> None:
    names = [problem.name for problem in _known_problems() if ATTENTION in ops]
    names += [case.name for case in selection.all_cases() if case.op in ops]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            close = nearest(pattern, names)
            hint = f"did you mean {close!r}?" if close else "`codetr bench kernels --list` names them all"
            raise UserError(f"--problem {pattern}: no problem is called so; {hint}")


def _known_problems() -> list[Problem]:
    return attention.select(["*"], device=torch.device("cpu"), quick=False)


def _shape(problem: Problem) -> str:
    return f"{problem.batch} x {problem.rows} queries, {problem.tokens} tokens, {len(problem.levels)} levels"


def _of(op: str, cases: Iterable[Case]) -> list[Case]:
    return [case for case in cases if case.op == op]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
