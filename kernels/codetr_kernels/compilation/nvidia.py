"""Reads NVIDIA machine code (SASS) with the cuobjdump that comes with Triton.

SASS and not PTX, because ptxas decides: whether the result of an atomic is used (`RED`, not `ATOM`), whether a loop is
unrolled, whether a kernel spills.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from triton import knobs

from codetr_kernels.compilation.loops import Instruction
from codetr_kernels.compilation.reading import Reading, read

_LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", re.MULTILINE)
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")
_JUMP = re.compile(
    r"^(?P<predicate>@!?U?P\w+ )?(?:BRA|BRX|JMP|UBRA)\b\S* (?P<condition>!?U?\w+, )?`?\(?(?P<to>0x[0-9a-f]+)"
)
_LEAVES = re.compile(r"^(EXIT|RET|KILL)\b")
_LOAD = re.compile(r"^(?:@!?U?P\w+ )?(LDG|LD|LDGSTS)\.(\S+)")
_ATOMIC = re.compile(r"^(?:@!?U?P\w+ )?(REDG?|ATOM[GS]?)\.(\S+)")
_BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}
_SPACES = {"RED": "global", "REDG": "global", "ATOM": "generic", "ATOMG": "global", "ATOMS": "shared"}
_OPERATIONS = ("ADD", "MIN", "MAX", "INC", "DEC", "AND", "OR", "XOR", "EXCH", "CAS")
_TYPE = re.compile(r"^(BF16|F16|F32|F64|S32|S64|U32|U64|64|128)(?:_V|x)?(\d*)$")


def read_nvidia(cubin: bytes) -> Reading:
    """Raises RuntimeError where Triton has no cuobjdump, or it fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        usage = _USAGE.search(_cuobjdump("-res-usage", path))
        listing = _cuobjdump("-sass", path)
    if usage is None:
        raise RuntimeError("cuobjdump -res-usage names no registers: this version of it writes another format")
    registers, stack, local = map(int, usage.groups())
    return read(
        parse(listing),
        registers=registers,
        spills=stack + local,
        scalar_spills=0,
        load_bytes=load_bytes,
        atomic_name=atomic_name,
        is_cas=is_cas,
    )


def parse(listing: str) -> list[Instruction]:
    """The instructions of a listing by `cuobjdump -sass`, without the padding behind them."""
    lines = [(int(address, 16), text) for address, text in _LINE.findall(listing)]
    while lines and lines[-1][1] == "NOP":
        lines.pop()
    position = {address: index for index, (address, _) in enumerate(lines)}
    if len(position) != len(lines):
        raise RuntimeError("the cubin holds several functions: inline them (a kernel calls one marked noinline)")
    return [_instruction(text, position) for _, text in lines]


def load_bytes(text: str) -> int | None:
    """Bytes a thread reads from global memory by an instruction; None if it is no such load.

    The width is a modifier of its own (`LDG.E.LTC128B.64` reads 8 bytes); without one it is 4.
    """
    match = _LOAD.match(text)
    if match is None:
        return None
    return next((_BYTES[part] for part in match[2].split(".") if part in _BYTES), 4)


def atomic_name(text: str) -> str | None:
    """An atomic in PTX's words, without order, scope and rounding: REDG.E.ADD.F32x4.FTZ.RN is red.global.add.v4.f32."""
    match = _ATOMIC.match(text)
    if match is None:
        return None
    kind, parts = match[1], match[2].split(".")
    operation = next((part.lower() for part in parts if part in _OPERATIONS), "other")
    kind_name = "red" if kind.startswith("RED") else "atom"
    return ".".join([kind_name, _SPACES[kind], operation, _type_name(parts, operation)])


def is_cas(text: str) -> bool:
    """Whether an instruction compares and swaps."""
    match = _ATOMIC.match(text)
    return match is not None and "CAS" in re.split(r"[.]", match[2])


def _type_name(parts: list[str], operation: str) -> str:
    integer = "b" if operation in ("cas", "exch", "and", "or", "xor") else "u"
    for part in parts:
        match = _TYPE.match(part)
        if match is not None:
            name = f"{integer}{match[1]}" if match[1].isdigit() else match[1].lower()
            return f"v{match[2]}.{name}" if match[2] else name
    return f"{integer}32"


def _instruction(text: str, position: dict[int, int]) -> Instruction:
    jump = _JUMP.match(text)
    if jump is not None:
        conditional = jump["predicate"] is not None or jump["condition"] is not None
        return Instruction(text, position[int(jump["to"], 16)], falls_through=conditional)
    return Instruction(text, falls_through=_LEAVES.match(text) is None)


def _cuobjdump(option: str, path: Path) -> str:
    try:
        tool = knobs.nvidia.cuobjdump.path
    except RuntimeError as error:
        raise RuntimeError(
            "cuobjdump, which Triton's wheel for NVIDIA brings, was not found in it: "
            "reinstall triton, or point TRITON_CUOBJDUMP_PATH at the one of a CUDA toolkit"
        ) from error
    done = subprocess.run([tool, option, str(path)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{tool} {option} failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout
