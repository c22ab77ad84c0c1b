"""All cases, and which of them are measured."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence

import torch

from codetr.bench.assignment import assigners, boxes, losses, matching, nms
from codetr.bench.assignment.case import QUICK, Case

OPS = ("linear_assignment", "matching_cost", "boxes", "losses", "assigners", "nms")
"""The packages of `codetr_kernels` with cases here; with deformable attention all that have kernels."""


def all_cases() -> list[Case]:
    """In the order of `OPS`."""
    return [case for family in (matching, boxes, losses, assigners, nms) for case in family.cases()]


def select(ops: Sequence[str], patterns: Sequence[str], *, device: torch.device, quick: bool) -> list[Case]:
    """The cases of these operations that are called so; `*` stands for anything. Without patterns: what suits the
    device, or a quick run."""
    cases = [case for case in all_cases() if case.op in ops]
    if patterns:
        return [case for case in cases if any(fnmatch.fnmatchcase(case.name, pattern) for pattern in patterns)]
    return [case for case in cases if (QUICK if quick else device.type) in case.suits]


def names(cases: Sequence[Case]) -> Iterator[str]:
    """Everyone in these cases, each once."""
    yield from dict.fromkeys(name for case in cases for name in case.people)
