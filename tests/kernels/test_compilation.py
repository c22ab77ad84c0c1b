"""Compiling for GPUs that are not there: small kernels whose machine code is known beforehand."""

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
from codetr_kernels.compilation import TARGETS, Compiled, compile_kernel, nvidia, target
from codetr_kernels.deform_attention.triton.configs import ARCHITECTURES

compiles = pytest.mark.skipif(
    "TRITON_INTERPRET" in os.environ, reason="TRITON_INTERPRET is set: kernels are interpreted, not compiled"
)
NVIDIA = [name for name in TARGETS if name.startswith("sm_")]


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
