"""Reads AMD machine code from the assembly that Triton's compiler leaves."""

from __future__ import annotations

import re

from codetr_kernels.compilation.loops import Instruction
from codetr_kernels.compilation.reading import Reading, read

_LABEL = re.compile(r"^([\w.$]+):")
_TEXT = re.compile(r"^\t([a-z]\w*(?:[ \t].*?)?)\s*(?:;.*)?$")
_JUMP = re.compile(r"^s_(c?branch)\w*\s+([\w.$]+)")
_LEAVES = re.compile(r"^s_(endpgm|setpc)")
_LOAD = re.compile(r"^(?:global|buffer|flat)_load_(\w+)")
_ATOMIC = re.compile(r"^((?:global|buffer|flat|ds)_atomic_\w+|ds_(?:cmp|add|min|max)\w*)")
_CAS = re.compile(r"_cmp(?:swap|st|store)")
_BYTES = {
    **{"ubyte": 1, "sbyte": 1, "ushort": 2, "sshort": 2, "short": 2},
    **{"dword": 4, "dwordx2": 8, "dwordx3": 12, "dwordx4": 16},
}


def read_amd(assembly: str) -> Reading:
    """assembly: amdgcn, with its metadata. Raises RuntimeError where the metadata lacks a number."""
    scratch, spilled = _metadata(assembly, "private_segment_fixed_size"), _metadata(assembly, "vgpr_spill_count")
    return read(
        parse(assembly),
        registers=_metadata(assembly, "vgpr_count"),
        # Vector registers may be spilled into accumulation registers, which takes no scratch memory.
        spills=max(scratch, 4 * spilled),
        scalar_spills=_metadata(assembly, "sgpr_spill_count"),
        load_bytes=load_bytes,
        atomic_name=atomic_name,
        is_cas=is_cas,
    )


def parse(assembly: str) -> list[Instruction]:
    """The instructions of the kernel."""
    texts: list[str] = []
    position: dict[str, int] = {}
    for line in assembly.splitlines():
        label = _LABEL.match(line)
        if label is not None:
            if label[1].startswith(".Lfunc_end"):
                break
            position[label[1]] = len(texts)
        elif (text := _TEXT.match(line)) is not None:
            texts.append(text[1])
    return [_instruction(text, position) for text in texts]


def load_bytes(text: str) -> int | None:
    """Bytes a lane reads from global memory by an instruction; None if it is no such load."""
    match = _LOAD.match(text)
    if match is None:
        return None
    kind = match[1].removeprefix("lds_").split("_")[0]
    if kind not in _BYTES:
        raise RuntimeError(f"a load of unknown width: {text}; known are {', '.join(_BYTES)}")
    return _BYTES[kind]


def atomic_name(text: str) -> str | None:
    """The mnemonic of an atomic; None for another instruction."""
    match = _ATOMIC.match(text)
    return None if match is None else match[1]


def is_cas(text: str) -> bool:
    """Whether an instruction compares and swaps."""
    name = atomic_name(text)
    return name is not None and _CAS.search(name) is not None


def _instruction(text: str, position: dict[str, int]) -> Instruction:
    jump = _JUMP.match(text)
    if jump is not None:
        return Instruction(text, position[jump[2]], falls_through=jump[1] == "cbranch")
    return Instruction(text, falls_through=_LEAVES.match(text) is None)


def _metadata(assembly: str, field: str) -> int:
    match = re.search(rf"^\s+(?:- )?\.{field}:\s+(\d+)$", assembly, re.MULTILINE)
    if match is None:
        raise RuntimeError(f"the assembly names no .{field}: this version of Triton writes another format")
    return int(match[1])
