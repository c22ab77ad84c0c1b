"""The innermost loops of machine code, from its jumps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class Instruction(NamedTuple):
    """One machine instruction.

    text: as the disassembler writes it. jump: position, in the list of instructions, that it may go on at, beside the
    next one; None: only the next. falls_through: whether it may go on at the next.
    """

    text: str
    jump: int | None = None
    falls_through: bool = True


def innermost(code: Sequence[Instruction]) -> list[frozenset[int]]:
    """Positions of the instructions of each loop that holds no other loop, in order of the loops' beginnings.

    A loop is all that can reach a jump back to its head without passing the head (a natural loop). Jumps back are
    those to an instruction of the path to the jump: in code that comes from structured loops, as Triton's does, they
    are the same on every path. A cold part that the assembler has moved behind the end and that jumps back into the
    middle is thus no loop. What is never reached, such as the jump to itself behind the end, belongs to none.
    """
    loops: dict[int, set[int]] = {}
    jumps_back, reached = _walk(code)
    before = _predecessors(code, reached)
    for tail, head in jumps_back:
        loops.setdefault(head, {head}).update(_body(before, tail, head))
    return [
        frozenset(body)
        for head, body in sorted(loops.items())
        if not any(other != head and other in body for other in loops)
    ]


def _successors(code: Sequence[Instruction], position: int) -> list[int]:
    instruction = code[position]
    following = [instruction.jump] if instruction.jump is not None else []
    if instruction.falls_through and position + 1 < len(code):
        following.append(position + 1)
    return following


def _predecessors(code: Sequence[Instruction], reached: Iterable[int]) -> dict[int, list[int]]:
    before: dict[int, list[int]] = {position: [] for position in reached}
    for position in before:
        for following in _successors(code, position):
            before[following].append(position)
    return before


def _walk(code: Sequence[Instruction]) -> tuple[list[tuple[int, int]], set[int]]:
    """Pairs of jump back and head, and all that is reached, in a walk in depth from the first instruction."""
    if not code:
        return [], set()
    jumps_back: list[tuple[int, int]] = []
    reached, on_path = {0}, {0}
    path = [(0, iter(_successors(code, 0)))]
    while path:
        position, following = path[-1]
        for successor in following:
            if successor in on_path:
                jumps_back.append((position, successor))
            elif successor not in reached:
                reached.add(successor)
                on_path.add(successor)
                path.append((successor, iter(_successors(code, successor))))
                break
        else:
            on_path.remove(position)
            path.pop()
    return jumps_back, reached


def _body(before: Mapping[int, list[int]], tail: int, head: int) -> set[int]:
    body, waiting = {head}, [tail]
    while waiting:
        position = waiting.pop()
        if position not in body:
            body.add(position)
            waiting.extend(before[position])
    return body
