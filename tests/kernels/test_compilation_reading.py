"""Machine code as text: loops, widths of loads, atomics, and what an assembler says of registers."""


# ruff: noqa: E402 (imports that need Triton stand behind the skip)

from __future__ import annotations

import pytest

triton = pytest.importorskip("triton")

from codetr_kernels.compilation import amd, nvidia
from codetr_kernels.compilation.loops import Instruction, innermost
from codetr_kernels.compilation.reading import read

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
