"""What is read from machine code, whichever GPU it is for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from codetr_kernels.compilation.loops import Instruction, innermost

Counted = TypeVar("Counted", int, str)


class Reading(NamedTuple):
    """The part of `Compiled` that is read from machine code; its fields are documented there."""

    registers: int
    spills: int
    scalar_spills: int
    gather_bytes: int
    loads: dict[int, int]
    loop_loads: dict[int, int]
    atomics: dict[str, int]
    has_cas: bool
    instructions: int
    loop_instructions: int


def read(
    code: Sequence[Instruction],
    *,
    registers: int,
    spills: int,
    scalar_spills: int,
    load_bytes: Callable[[str], int | None],
    atomic_name: Callable[[str], str | None],
    is_cas: Callable[[str], bool],
) -> Reading:
    """load_bytes, atomic_name: of an instruction's text; None if it is no global load, or no atomic."""
    texts = [instruction.text for instruction in code]
    # A compare-and-swap that failed is tried again: such a loop is part of an instruction, not what is looked for.
    largest = max(innermost(_without_retries(code, is_cas)), key=len, default=frozenset[int]())
    loads = _count(map(load_bytes, texts))
    loop_loads = _count(load_bytes(texts[position]) for position in largest)
    return Reading(
        registers=registers,
        spills=spills,
        scalar_spills=scalar_spills,
        gather_bytes=max(loop_loads or loads, default=0),
        loads=loads,
        loop_loads=loop_loads,
        atomics=_count(map(atomic_name, texts)),
        has_cas=any(map(is_cas, texts)),
        instructions=len(code),
        loop_instructions=len(largest),
    )


def _without_retries(code: Sequence[Instruction], is_cas: Callable[[str], bool]) -> list[Instruction]:
    """The same instructions, where the innermost loops that hold a compare-and-swap do not jump back."""
    straight = list(code)
    for body in innermost(code):
        if any(is_cas(code[position].text) for position in body):
            for position in body:
                jump = code[position].jump
                if jump in body and jump is not None and jump <= position:
                    straight[position] = code[position]._replace(jump=None, falls_through=True)
    return straight


def _count(found: Iterable[Counted | None]) -> dict[Counted, int]:
    return dict(sorted(Counter(item for item in found if item is not None).items()))
