"""Every shipped configuration compiled: arguments as at a launch, and what the machine code must look like."""

# ruff: noqa: E402 (imports that need Triton stand behind the skip)

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")

from codetr_kernels.compilation import TARGETS
from codetr_kernels.deform_attention.triton import inspection, launch
from codetr_kernels.deform_attention.triton.configs import Config, override, shipped
from codetr_kernels.deform_attention.triton.inspection import Row, Variant, rows

pytestmark = pytest.mark.skipif(
    "TRITON_INTERPRET" in os.environ, reason="TRITON_INTERPRET is set: kernels are interpreted, not compiled"
)

SPECIAL = {"num_warps", "num_stages", "enable_fp_fusion"}


class Recorder:
    """Stands in for a kernel and keeps how it is launched."""

    def __init__(self, kernel: triton.JITFunction) -> None:
        self.kernel = kernel
        self.arguments: dict[str, object] = {}
        self.constants: dict[str, object] = {}

    def __getitem__(self, grid: object) -> Callable[..., None]:
        def run(*arguments: object, **constants: object) -> None:
            names = [name for name in self.kernel.arg_names if name not in constants]
            self.arguments = dict(zip(names, arguments, strict=True))
            self.constants = constants

        return run


def launched(problem: launch.Problem, variant: Variant, monkeypatch: pytest.MonkeyPatch) -> tuple[Recorder, Recorder]:
    """What `launch` gives the two kernels for a problem on the CPU, which does not run them."""
    forward, backward = Recorder(launch.forward_kernel), Recorder(launch.backward_kernel)
    monkeypatch.setattr(launch, "forward_kernel", forward)
    monkeypatch.setattr(launch, "backward_kernel", backward)
    monkeypatch.setattr(launch, "architecture", lambda device: "sm_90")
    with override(Config(16, 1, 1, 0)):
        output = launch.forward(problem)
        launch.backward(
            problem,
            torch.ones_like(output),
            output,
            needs_value=True,
            needs_references=variant.needs_references,
            deterministic=variant.deterministic,
            native=variant.native,
        )
    return forward, backward


def types(arguments: dict[str, object]) -> dict[str, object]:
    """Tensors by their types: their contents do not matter."""
    return {name: value.dtype if isinstance(value, Tensor) else type(value) for name, value in arguments.items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "variant",
    [
        Variant(),
        Variant(form=0, padded=False),
        Variant(form=4, levels=6, on_host=False, deterministic=True),
        Variant(native=True, needs_references=False),
    ],
)
def test_kernels_are_compiled_for_what_they_are_launched_with(
    dtype: torch.dtype, variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "IMAGE", (64, 96))
    example = inspection.example(dtype, 8, many_queries=False, variant=variant)
    real = launch.Problem(
        *(torch.ones_like(part, device="cpu") if isinstance(part, Tensor) else part for part in example)
    )
    forward, backward = launched(real, variant, monkeypatch)
    compiled: list[dict[str, object]] = []
    monkeypatch.setattr(inspection, "compile_kernel", lambda kernel, **given: compiled.append(given))
    for direction in ("forward", "backward"):
        inspection.compile_config(direction, Config(16, 1, 1, 0), "sm_90", example, variant, name=direction)
    for recorder, given, arguments in zip(
        (forward, backward),
        compiled,
        (inspection.arguments("forward", example, variant), inspection.arguments("backward", example, variant)),
        strict=True,
    ):
        assert types(arguments) == types(recorder.arguments)
        assert given["constants"] == {k: v for k, v in recorder.constants.items() if k not in SPECIAL}
        assert {name: given[name] for name in SPECIAL} == {name: recorder.constants[name] for name in SPECIAL}


def test_types_are_those_triton_finds() -> None:
    problem = inspection.example(torch.bfloat16, 32, many_queries=True, variant=Variant())
    given = {
        name: inspection.type_name(value) for name, value in inspection.arguments("forward", problem, Variant()).items()
    }
    assert given == {
        **{"value": "*bf16", "padding": "*u8", "references": "*fp32", "samples": "*bf16", "logits": "*bf16"},
        **{"output": "*bf16", "shapes": "*bf16", "S": "i32", "Q": "i32"},
        **{f"size{level}": "i64" for level in range(6)},
    }


def test_an_unknown_key_is_an_error() -> None:
    with pytest.raises(
        ValueError, match="sm_90 has no configuration forward/8-bit/d32/many, expected some of forward/"
    ):
        list(rows("sm_90", keys=["forward/8-bit/d32/many"]))


@pytest.fixture(scope="module")
def usual() -> dict[tuple[str, str], Row]:
    """The heads of 32 channels that nearly every detector has, on every target."""
    return {
        (on, row.key): row
        for on in TARGETS
        for row in rows(on, keys=[key for key in shipped(on) if "/d32/" in key and "/64-bit/" not in key])
    }


def test_no_configuration_for_heads_of_32_channels_spills(usual: dict[tuple[str, str], Row]) -> None:
    assert len(usual) == len(TARGETS) * 8
    assert {key: row.compiled.spills for key, row in usual.items() if row.compiled.spills} == {}


@pytest.mark.parametrize("on", ["sm_80", "sm_90"])
def test_no_shipped_configuration_spills(on: str) -> None:
    """With everything switched on: boxes, padding, the gradient of the references."""
    keys = [key for key in shipped(on) if "/64-bit/" not in key]
    found = {row.key: row.compiled.spills for row in rows(on, keys=keys, variant=Variant(form=4), processes=2)}
    assert len(found) == 48
    assert {key: spills for key, spills in found.items() if spills} == {}


# Instructions of a thread and sampled point as compiled by Triton 3.8, and a twentieth for other versions.
BUDGET = {
    ("sm_80", "forward/16-bit/d32/many"): 190,
    ("sm_80", "forward/32-bit/d32/many"): 121,
    ("sm_80", "backward/16-bit/d32/many"): 575,
    ("sm_80", "backward/32-bit/d32/many"): 667,
    ("sm_90", "forward/16-bit/d32/many"): 189,
    ("sm_90", "forward/32-bit/d32/many"): 122,
    ("sm_90", "backward/16-bit/d32/many"): 481,
    ("sm_90", "backward/32-bit/d32/many"): 205,
}


def test_a_sampled_point_costs_what_was_recorded(usual: dict[tuple[str, str], Row]) -> None:
    found = {key: usual[key].instructions_per_point for key in BUDGET}
    over = {key: cost for key, cost in found.items() if cost is None or cost > 1.05 * BUDGET[key]}
    assert over == {}


def test_gathers_are_vectors(usual: dict[tuple[str, str], Row]) -> None:
    """Of 16 bytes; of eight where Ampere's scalar atomics ask for another layout of 16-bit values."""
    widths = {key: row.compiled.gather_bytes for key, row in usual.items()}
    narrow = {key for key, width in widths.items() if width != 16}
    assert all(on == "sm_80" and name.startswith("backward/16-bit") for on, name in narrow)
    assert min(widths.values()) >= 8


def test_atomics_are_single_instructions(usual: dict[tuple[str, str], Row]) -> None:
    """Of four numbers from Hopper on; none in the forward kernel, no loops."""
    expected = {
        "sm_80": {"red.global.add.f32"},
        "sm_90": {"red.global.add.v4.f32"},
        "sm_100": {"red.global.add.v4.f32"},
        "gfx942": {"buffer_atomic_add_f32"},
    }
    for (on, key), row in usual.items():
        assert set(row.compiled.atomics) == (expected[on] if key.startswith("backward") else set()), (on, key)
        assert not row.compiled.has_cas


def test_every_kernel_has_a_loop_over_points(usual: dict[tuple[str, str], Row]) -> None:
    """A turn is one point: the four gathers of a thread's vectors, and at least their multiplications."""
    for key, row in usual.items():
        assert row.instructions_per_point is not None, key
        # Two numbers a register at most, four cells: the least that a vector of 16 bytes costs.
        assert 4 * 4 < row.instructions_per_point < row.compiled.instructions, key
        assert row.compiled.loop_loads[row.compiled.gather_bytes] % 4 == 0, key


def test_native_sums_are_vectors_of_16_bits_and_deterministic_ones_integers() -> None:
    key = "backward/16-bit/d32/many"
    (native,) = rows("sm_90", keys=[key], variant=Variant(native=True))
    assert set(native.compiled.atomics) == {"red.global.add.v8.bf16"}
    (fixed,) = rows("sm_90", keys=[key], variant=Variant(deterministic=True))
    assert set(fixed.compiled.atomics) == {"red.global.add.u64"}


def test_processes_give_the_same_rows_in_the_same_order() -> None:
    keys = ["forward/32-bit/d8/few", "forward/16-bit/d8/few"]
    one, two = (list(rows("sm_90", keys=keys, processes=processes)) for processes in (1, 2))
    assert [row.key for row in one] == [key for key in shipped("sm_90") if key in keys]
    assert [without_time(row) for row in one] == [without_time(row) for row in two]


def without_time(row: Row) -> dict[str, object]:
    return {**row.compiled.as_dict(), "seconds": None, "key": row.key, "config": row.config}
