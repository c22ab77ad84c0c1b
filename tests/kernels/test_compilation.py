"""Compiling for GPUs that are not there: literal machine code, then small kernels whose code is known beforehand."""

# ruff: noqa: E402 (imports that need Triton stand behind the skip)

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

import compiled_kernels
from codetr_kernels.compilation import TARGETS, Compiled, amd, compile_kernel, nvidia, target
from codetr_kernels.compilation.loops import Instruction, innermost
from codetr_kernels.compilation.reading import read
from codetr_kernels.deform_attention.triton.configs import ARCHITECTURES

compiles = pytest.mark.skipif(
    "TRITON_INTERPRET" in os.environ, reason="TRITON_INTERPRET is set: kernels are interpreted, not compiled"
)
NVIDIA = [name for name in TARGETS if name.startswith("sm_")]

SASS = """
\t\tFunction : kernel
        /*0000*/                   S2R R0, SR_TID.X ;                  /* 0x0000000000007919 */
                                                                       /* 0x000ea20000002100 */
        /*0010*/                   LDG.E R2, desc[UR8][R4.64] ;        /* 0x0 */
        /*0020*/              @!P0 LDG.E.128 R8, desc[UR8][R4.64] ;    /* 0x0 */
        /*0030*/                   ATOMG.E.CAS.STRONG.GPU PT, R3, [R6], R2, R3 ; /* 0x0 */
        /*0040*/               @P1 BRA 0x30 ;                          /* 0x0 */
        /*0050*/                   FFMA R3, R8, R2, R9 ;               /* 0x0 */
        /*0060*/               @P0 BRA 0x20 ;                          /* 0x0 */
        /*0070*/                   BRA.U UP0, 0x10 ;                   /* 0x0 */
        /*0080*/               @P2 EXIT ;                              /* 0x0 */
        /*0090*/                   EXIT ;                              /* 0x0 */
        /*00a0*/                   BRA 0xa0;                           /* 0x0 */
        /*00b0*/                   NOP;                                /* 0x0 */
"""
AMDGCN = """
kernel:                                 ; @kernel
.Lfunc_begin0:
\t.loc\t1 17 0 prologue_end             ; kernel.py:17:0
\ts_load_dwordx2 s[2:3], s[0:1], 0x0
.LBB0_1:                                ; =>This Loop Header: Depth=1
\tglobal_load_dwordx4 v[0:3], v4, s[2:3]
\tbuffer_load_ushort v5, v0, s[8:11], 0 offen ; a comment
\ts_cbranch_scc1 .LBB0_1
; %bb.2:
\tglobal_atomic_add_f32 v4, v0, s[2:3]
\ts_endpgm
.Lfunc_end0:
\ts_branch .LBB0_1
  - .vgpr_count:     60
    .private_segment_fixed_size: 16
    .sgpr_spill_count: 3
    .vgpr_spill_count: 5
"""


def code(length: int, *jumps: tuple[int, int], end: int) -> list[Instruction]:
    """Instructions that jump, all conditionally, as pairs of from and to, and one that ends."""
    made = [Instruction("") for _ in range(length)]
    for here, there in jumps:
        made[here] = Instruction("", jump=there)
    made[end] = made[end]._replace(falls_through=False)
    return made


def test_straight_code_has_no_loop() -> None:
    assert innermost([]) == []
    assert innermost(code(3, end=2)) == []
    assert innermost(code(5, (0, 3), end=4)) == []


def test_a_loop_is_what_lies_between_a_jump_back_and_its_target() -> None:
    assert innermost(code(5, (3, 1), end=4)) == [{1, 2, 3}]
    assert innermost(code(3, (1, 1), end=2)) == [{1}]


def test_only_loops_without_a_loop_inside_are_innermost() -> None:
    assert innermost(code(9, (3, 2), (6, 5), (7, 1), end=8)) == [{2, 3}, {5, 6}]


def test_two_jumps_to_one_head_are_one_loop() -> None:
    assert innermost(code(6, (2, 1), (4, 1), end=5)) == [{1, 2, 3, 4}]


def test_a_cold_part_behind_the_end_is_no_loop() -> None:
    """1 jumps to 4, behind the end at 3; 5 jumps back to 2: each runs once."""
    listing = code(6, (1, 4), (5, 2), end=3)
    listing[5] = listing[5]._replace(falls_through=False)
    assert innermost(listing) == []


def test_what_is_never_reached_belongs_to_no_loop() -> None:
    """2 jumps over 3 to 4: though 3 would go on to 4, the loop is 1, 2, 4."""
    listing = code(6, (2, 4), (4, 1), end=5)
    listing[2] = listing[2]._replace(falls_through=False)
    assert innermost(listing) == [{1, 2, 4}]


def test_a_part_of_a_loop_behind_the_end_belongs_to_it() -> None:
    listing = code(7, (2, 5), (3, 1), (6, 3), end=4)
    listing[6] = listing[6]._replace(falls_through=False)
    assert innermost(listing) == [{1, 2, 3, 5, 6}]


def test_sass_is_read() -> None:
    listing = nvidia.parse(SASS)
    assert [instruction.jump for instruction in listing] == [None] * 4 + [3, None, 2, 1, None, None, 10]
    assert [i for i, instruction in enumerate(listing) if not instruction.falls_through] == [9, 10]
    assert listing[2].text == "@!P0 LDG.E.128 R8, desc[UR8][R4.64]"


def test_the_loop_that_counts_is_the_innermost_that_is_no_retry() -> None:
    """0x30-0x40 retries a compare-and-swap, 0x20-0x60 is around it, 0x10-0x70 around that."""
    reading = read(
        nvidia.parse(SASS),
        registers=7,
        spills=8,
        scalar_spills=9,
        load_bytes=nvidia.load_bytes,
        atomic_name=nvidia.atomic_name,
        is_cas=nvidia.is_cas,
    )
    assert reading._asdict() == {
        "registers": 7,
        "spills": 8,
        "scalar_spills": 9,
        "gather_bytes": 16,
        "loads": {4: 1, 16: 1},
        "loop_loads": {16: 1},
        "atomics": {"atom.global.cas.b32": 1},
        "has_cas": True,
        "instructions": 11,
        "loop_instructions": 5,
    }


def test_several_functions_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="several functions: inline them"):
        nvidia.parse(SASS + SASS)


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("LDG.E R2, desc[UR8][R4.64]", 4),
        ("LDG.E.64 R2, [R4.64]", 8),
        ("@!P0 LDG.E.LTC128B.64 R2, [R4.64]", 8),
        ("@P3 LDG.E.EF.128 R2, [R4.64]", 16),
        ("LDG.E.ENL2.256 R4, R8, desc[UR8][R4.64]", 32),
        ("LDG.E.U16.CONSTANT R2, [R4.64]", 2),
        ("LDG.E.U8 R2, [R4.64]", 1),
        ("LDGSTS.E.BYPASS.128 [R2], [R4.64]", 16),
        ("LDS.128 R4, [R2]", None),
        ("LDL R4, [R1]", None),
        ("LDC R1, c[0x0][0x28]", None),
        ("STG.E.128 desc[UR8][R4.64], R4", None),
    ],
)
def test_widths_of_loads_of_nvidia(text: str, width: int | None) -> None:
    assert nvidia.load_bytes(text) == width


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("REDG.E.ADD.F32x4.FTZ.RN.STRONG.GPU desc[UR4][R2.64], R4", "red.global.add.v4.f32"),
        ("@P1 REDG.E.ADD.BF16x8.RN.STRONG.GPU desc[UR4][R2.64], R4", "red.global.add.v8.bf16"),
        ("RED.E.ADD.F32.FTZ.RN.STRONG.GPU [R2.64], R4", "red.global.add.f32"),
        ("RED.E.ADD.64.STRONG.GPU [R2.64], R4", "red.global.add.u64"),
        ("REDG.E.ADD.STRONG.GPU desc[UR4][R2.64], R4", "red.global.add.u32"),
        ("ATOMG.E.ADD.F32.FTZ.RN.STRONG.GPU PT, R3, [R2.64], R4", "atom.global.add.f32"),
        ("ATOMG.E.MAX.S32.STRONG.GPU PT, R3, [R2.64], R4", "atom.global.max.s32"),
        ("ATOMG.E.CAS.64.STRONG.GPU PT, R4, [R2], R4, R6", "atom.global.cas.b64"),
        ("ATOMS.CAS R3, [R2], R4, R5", "atom.shared.cas.b32"),
        ("REDUX.SUM UR4, R2", None),
        ("LDG.E R2, [R4.64]", None),
    ],
)
def test_names_of_atomics_of_nvidia(text: str, name: str | None) -> None:
    assert nvidia.atomic_name(text) == name
    assert nvidia.is_cas(text) == (name is not None and ".cas." in name)


def test_assembly_of_amd_is_read() -> None:
    reading = amd.read_amd(AMDGCN)
    assert reading._asdict() == {
        "registers": 60,
        "spills": 20,
        "scalar_spills": 3,
        "gather_bytes": 16,
        "loads": {2: 1, 16: 1},
        "loop_loads": {2: 1, 16: 1},
        "atomics": {"global_atomic_add_f32": 1},
        "has_cas": False,
        "instructions": 6,
        "loop_instructions": 3,
    }


def test_scratch_memory_counts_beside_spilled_registers() -> None:
    assert amd.read_amd(AMDGCN.replace("fixed_size: 16", "fixed_size: 24")).spills == 24


def test_assembly_without_metadata_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"names no \.vgpr_count"):
        amd.read_amd(AMDGCN.replace(".vgpr_count", ".other"))


@pytest.mark.parametrize(
    ("text", "width", "cas"),
    [
        ("global_load_dwordx3 v[0:2], v4, s[2:3]", 12, False),
        ("buffer_load_dword v0, v1, s[4:7], 0 offen", 4, False),
        ("global_load_short_d16_hi v0, v1, s[2:3]", 2, False),
        ("flat_load_ubyte v0, v[2:3]", 1, False),
        ("s_load_dwordx4 s[0:3], s[4:5], 0x0", None, False),
        ("ds_read_b128 v[0:3], v4", None, False),
        ("global_atomic_cmpswap v0, v4, v[2:3], s[2:3] sc0", None, True),
        ("buffer_atomic_cmpswap_x2 v[0:3], v4, s[4:7], 0 offen", None, True),
        ("ds_cmpst_rtn_b32 v0, v1, v2, v3", None, True),
        ("v_cmp_lt_i32_e32 vcc, v0, v1", None, False),
    ],
)
def test_loads_and_compare_and_swap_of_amd(text: str, width: int | None, cas: bool) -> None:
    assert amd.load_bytes(text) == width
    assert amd.is_cas(text) == cas


def test_a_load_of_unknown_width_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="unknown width: buffer_load_format_x v0"):
        amd.load_bytes("buffer_load_format_x v0, v1, s[4:7], 0")


def test_targets_are_those_of_the_tables() -> None:
    assert tuple(TARGETS) == ARCHITECTURES
    assert (target("sm_90").backend, target("sm_90").arch, target("sm_90").warp_size) == ("cuda", 90, 32)
    assert (target("gfx942").backend, target("gfx942").arch, target("gfx942").warp_size) == ("hip", "gfx942", 64)


@pytest.mark.parametrize(("name", "nearest"), [("sm_86", "sm_80"), ("sm_900", "sm_90"), ("gfx940", "gfx942")])
def test_an_unknown_target_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"unknown target '{name}', expected one of sm_80, .*, nearest: .*{nearest}"):
        target(name)
    with pytest.raises(ValueError, match=r"'tpu', expected one of sm_80, sm_90, sm_100, gfx942$"):
        target("tpu")


def copied(on: str, *, aligned: bool = True) -> Compiled:
    return compile_kernel(
        compiled_kernels.copy,
        name="copy",
        target=on,
        arguments={"source": "*fp32", "target": "*fp32"},
        constants={"BLOCK": 4 * TARGETS[on].warp_size},
        num_warps=1,
        divisible_by_16=("source", "target") if aligned else (),
    )


@compiles
@pytest.mark.parametrize("on", TARGETS)
def test_a_load_of_16_bytes_is_seen_and_a_scalar_one_not(on: str) -> None:
    vector, scalar = copied(on), copied(on, aligned=False)
    assert (vector.gather_bytes, vector.loads) == (16, {16: 1})
    assert vector.loop_instructions == 0
    assert vector.atomics == {}
    if on in NVIDIA:  # AMD's loads need no alignment.
        assert (scalar.gather_bytes, scalar.loads) == (4, {4: 4})


def scattered(on: str, dtype: str) -> Compiled:
    return compile_kernel(
        compiled_kernels.scatter,
        name="scatter",
        target=on,
        arguments={"source": f"*{dtype}", "rows": "*i32", "target": f"*{dtype}"},
        constants={"ROWS": 32, "D": 32},
        num_warps=1,
        divisible_by_16=("source", "target", "rows"),
    )


@compiles
@pytest.mark.parametrize(
    ("on", "dtype", "atomics"),
    [
        ("sm_80", "fp32", {"red.global.add.f32": 32}),
        ("sm_90", "fp32", {"red.global.add.v4.f32": 8}),
        ("sm_100", "fp32", {"red.global.add.v4.f32": 8}),
        ("gfx942", "fp32", {"global_atomic_add_f32": 16}),
        ("sm_80", "bf16", {"atom.global.cas.b32": 32}),
        ("sm_90", "bf16", {"red.global.add.v8.bf16": 4}),
        ("sm_80", "i64", {"red.global.add.u64": 32}),
    ],
)
def test_atomics_of_32_by_32_numbers_of_a_warp(on: str, dtype: str, atomics: dict[str, int]) -> None:
    """Each instruction adds to one vector a thread; a bf16 atomic is a loop before Hopper."""
    compiled = scattered(on, dtype)
    assert compiled.atomics == atomics
    assert compiled.has_cas == (dtype == "bf16" and on == "sm_80")
    assert compiled.loop_instructions == 0


@compiles
def test_retries_of_an_atomic_count_as_part_of_the_loop_around_them() -> None:
    compiled = compile_kernel(
        compiled_kernels.scatter_in_loop,
        name="scatter in loop",
        target="sm_80",
        arguments={"source": "*bf16", "rows": "*i32", "target": "*bf16", "turns": "i32"},
        constants={"ROWS": 8, "D": 32},
        num_warps=1,
        divisible_by_16=("source", "target", "rows"),
    )
    assert compiled.has_cas
    assert compiled.gather_bytes == 16
    # A warp adds eight numbers a thread: each is read once, packed, and tried in at least five instructions.
    assert compiled.loop_loads[4] == 8
    assert compiled.loop_loads[16] >= 1
    assert compiled.loop_instructions > 8 * 7


@compiles
@pytest.mark.parametrize("on", TARGETS)
def test_spills_are_seen(on: str) -> None:
    """A thread has 255 registers on NVIDIA and 512 on AMD: twice as many numbers do not fit, 32 do."""

    def held(numbers: int) -> Compiled:
        return compile_kernel(
            compiled_kernels.hold,
            name="hold",
            target=on,
            arguments={"source": "*fp32", "target": "*fp32"},
            constants={"BLOCK": numbers * TARGETS[on].warp_size},
            num_warps=1,
            divisible_by_16=("source", "target"),
        )

    most = 255 if on in NVIDIA else 512
    small, large = held(32), held(512 if on in NVIDIA else 1024)
    assert small.spills == 0
    assert 32 < small.registers < 255
    assert large.registers <= most
    assert large.spills >= 4 * most


def added_up(on: str, work: int, name: str = "add up") -> Compiled:
    return compile_kernel(
        compiled_kernels.add_up,
        name=name,
        target=on,
        arguments={"source": "*fp32", "target": "*fp32", "turns": "i32"},
        constants={"BLOCK": TARGETS[on].warp_size, "WORK": work},
        num_warps=1,
        divisible_by_16=("source", "target"),
    )


@compiles
@pytest.mark.parametrize("on", TARGETS)
def test_the_body_of_a_loop_is_counted(on: str) -> None:
    """A turn loads one number and costs as many instructions more as it does work, however often it is unrolled."""
    little, much = added_up(on, 8), added_up(on, 40)
    for compiled in (little, much):
        assert set(compiled.loop_loads) == {4}
        assert 0 < compiled.loop_instructions < compiled.instructions
    per_turn = [compiled.loop_instructions / compiled.loop_loads[4] for compiled in (little, much)]
    # The address and the counter besides: a few instructions, more of them shared the more turns are unrolled.
    assert 8 < per_turn[0] < 8 + 20
    assert per_turn[1] - per_turn[0] == pytest.approx(32, abs=12)


@compiles
def test_a_row_goes_into_json() -> None:
    compiled = added_up("sm_90", 8, name="a row")
    row = json.loads(json.dumps(compiled.as_dict()))
    assert row == compiled.as_dict()
    assert (row["name"], row["target"]) == ("a row", "sm_90")
    assert row["loads"] == {"4": compiled.loads[4]}


@compiles
def test_no_cache_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time to read a file would be no time to compile."""
    cached: list[bool] = []
    monkeypatch.setattr(triton.knobs.compilation, "listener", lambda *, cache_hit, **_: cached.append(cache_hit))
    added_up("sm_90", 8)
    added_up("sm_90", 8)
    assert cached == [False, False]
    assert not triton.knobs.compilation.always_compile


@compiles
@pytest.mark.parametrize("on", NVIDIA)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_widths_agree_with_ptx(on: str, dtype: str) -> None:
    from triton.compiler import ASTSource

    source = ASTSource(
        fn=compiled_kernels.scatter,
        signature={
            **{"source": f"*{dtype}", "rows": "*i32", "target": f"*{dtype}"},
            **{"ROWS": "constexpr", "D": "constexpr"},
        },
        constexprs={(3,): 32, (4,): 32},
        attrs={(index,): [["tt.divisibility", 16]] for index in range(3)},
    )
    ptx = triton.compile(source, target=TARGETS[on], options={"num_warps": 1, "enable_fp_fusion": True}).asm["ptx"]
    compiled = scattered(on, dtype)
    assert compiled.loads[16] == len(re.findall(r"\bld\.global\S*\.v4\.b32", ptx))
    # Atomics whose result nobody reads: "atom" in some versions' PTX, a reduction all the same.
    assert sum(compiled.atomics.values()) == len(re.findall(r"\s(?:red|atom)\.\S+", ptx))


@compiles
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arguments": {"source": "*fp32"}}, "copy takes source, target, BLOCK; missing: target"),
        ({"constants": {}}, "missing: BLOCK"),
        ({"constants": {"BLOCK": 128, "OTHER": 1}}, "unknown: OTHER"),
        ({"constants": {"BLOCK": 128, "source": 1}}, "both argument and constant: source"),
        ({"divisible_by_16": ["soruce"]}, "divisible_by_16 names soruce, expected some of source, target"),
        ({"within_2gb": ["BLOCK"]}, "within_2gb names BLOCK, expected some of source, target"),
        ({"target": "sm_70"}, "unknown target 'sm_70'"),
    ],
)
def test_arguments_that_are_not_the_kernels_are_an_error(change: dict[str, object], message: str) -> None:
    given: dict[str, object] = {
        "name": "copy",
        "target": "sm_90",
        "arguments": {"source": "*fp32", "target": "*fp32"},
        "constants": {"BLOCK": 128},
        "num_warps": 1,
    }
    with pytest.raises(ValueError, match=message):
        compile_kernel(compiled_kernels.copy, **(given | change))  # type: ignore[arg-type]


@compiles
def test_what_is_no_kernel_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"it must be a function decorated with triton\.jit, got int"):
        compile_kernel(3, name="it", target="sm_90", arguments={}, constants={}, num_warps=1)
    tuned = triton.autotune([triton.Config({})], key=[])(compiled_kernels.copy)
    with pytest.raises(TypeError, match=r"got Autotuner; pass its \.fn"):
        compile_kernel(tuned, name="it", target="sm_90", arguments={}, constants={}, num_warps=1)


@compiles
def test_a_missing_tool_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        @property
        def cuobjdump(self) -> None:
            raise RuntimeError("Cannot find cuobjdump")

    class Knobs:
        nvidia = Missing()

    monkeypatch.setattr(nvidia, "knobs", Knobs())
    with pytest.raises(
        RuntimeError, match=r"cuobjdump, .*, was not found in it: reinstall triton, or point TRITON_CUOB"
    ):
        copied("sm_90")


def test_an_interpreted_kernel_is_an_error() -> None:
    """In a process of its own: the variable is read as kernels are decorated."""
    program = (
        "import compiled_kernels\nfrom codetr_kernels.compilation import compile_kernel\n"
        "compile_kernel(compiled_kernels.copy, name='copy', target='sm_90', num_warps=1, constants={'BLOCK': 128},"
        " arguments={'source': '*fp32', 'target': '*fp32'})\n"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "RuntimeError: copy cannot be compiled: TRITON_INTERPRET is set, and kernels are inter" in done.stderr
