"""GPUs that torch has code for, or not; what runs on each device."""

from __future__ import annotations

import pytest
import torch

from codetr.doctor import gpus
from codetr.doctor.gpus import GIB, Gpu, check_backend, check_gpus, has_code, judge_backend, judge_gpu

WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


def gpu(capability: tuple[int, int], *, free: float = 70.0) -> Gpu:
    return Gpu("NVIDIA X", capability, total=80 * GIB, free=int(free * GIB))


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 0), ["sm_80"], True),
        ((8, 9), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80", "sm_86"], False),
        ((9, 0), ["sm_90a"], True),
        ((10, 3), ["sm_100a"], False),
        ((10, 3), ["sm_100"], True),
        ((12, 0), ["sm_90", "compute_90"], True),
        ((12, 0), ["compute_90a"], False),
        ((6, 1), ["sm_75", "compute_75"], False),
        ((6, 1), ["gfx942"], False),
    ],
)
def test_what_runs_where(capability: tuple[int, int], architectures: list[str], runs: bool) -> None:
    assert has_code(capability, architectures) is runs


def test_a_gpu_that_torch_has_code_for() -> None:
    row = judge_gpu("cuda:0", gpu((9, 0)), WHEEL)
    assert (row.check, row.verdict) == ("gpu cuda:0", "ok")
    assert row.found == "NVIDIA X, compute capability 9.0, 70.0 of 80.0 GiB free"
    assert judge_gpu("cuda:0", gpu((9, 4)), []).verdict == "ok"


def test_a_gpu_that_is_too_old_for_this_torch() -> None:
    row = judge_gpu("cuda:1", gpu((6, 1)), WHEEL)
    assert (row.check, row.verdict) == ("gpu cuda:1", "failure")
    assert row.found.endswith(f"this torch has no code for it, only for {' '.join(WHEEL)}")
    assert row.fix.endswith("torch torchvision --index-url https://download.pytorch.org/whl/cu126")


def test_a_gpu_that_is_too_new_for_this_torch() -> None:
    row = judge_gpu("cuda:0", gpu((12, 0)), ["sm_80", "sm_90"])
    assert row.verdict == "failure"
    assert row.fix.endswith("pip install --upgrade torch torchvision")


def test_a_gpu_that_is_too_old_for_the_kernels() -> None:
    row = judge_gpu("cuda:0", gpu((7, 5)), WHEEL)
    assert row.verdict == "warning"
    assert row.found.endswith("older than 8.0 (Ampere), so the reference runs, not the kernels")


def test_a_gpu_that_is_in_use() -> None:
    row = judge_gpu("cuda:0", gpu((9, 0), free=39), WHEEL)
    assert (row.verdict, row.fix) == ("note", "nvidia-smi")


def test_a_gpu_that_cannot_be_asked_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def memory(device: torch.device) -> tuple[int, int]:
        if device.index == 0:
            raise RuntimeError("CUDA error: device busy")
        return 70 * GIB, 80 * GIB

    monkeypatch.setattr(gpus, "devices", lambda: [torch.device("cpu"), *(torch.device("cuda", i) for i in range(2))])
    monkeypatch.setattr(torch.cuda, "mem_get_info", memory)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA X")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: WHEEL)
    rows = check_gpus()
    assert [(row.check, row.verdict) for row in rows] == [("gpu cuda:0", "failure"), ("gpu cuda:1", "ok")]
    assert rows[0].found == "the check ended with RuntimeError: CUDA error: device busy"


def test_no_gpu_is_worth_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "devices", lambda: [torch.device("cpu")])
    assert [row.verdict for row in check_gpus()] == ["note"]
    (row,) = check_backend()
    assert (row.check, row.verdict) == ("backend cpu", "note")
    assert row.found.startswith("reference: ")


def test_the_backend_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judge_backend("cuda:0", "triton", "NVIDIA X", has_gpu=True).verdict == "ok"
    assert judge_backend("cpu", "reference", "not on cpu", has_gpu=True).verdict == "ok"
    row = judge_backend("cuda:0", "reference", "triton is not installed", has_gpu=True)
    assert (row.verdict, row.found) == ("warning", "reference: triton is not installed")
    assert row.fix.endswith("pip install triton")
    assert judge_backend("cuda:0", "reference", "the kernels need 8.0", has_gpu=True).verdict == "warning"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    row = judge_backend("cpu", "triton", "TRITON_INTERPRET is set", has_gpu=False)
    assert (row.verdict, row.fix) == ("warning", "unset TRITON_INTERPRET")
