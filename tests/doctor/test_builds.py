"""Builds of torch and torchvision against one another and against the driver."""

from __future__ import annotations

import pytest

from codetr.doctor import builds
from codetr.doctor.builds import Build, check_timm, check_torch, check_torchvision, judge_build, judge_torchvision
from codetr.doctor.driver import Driver
from codetr.doctor.importing import Unimportable

H100 = Driver(version="570.86.15", cuda=(12, 8), gpus=("NVIDIA H100",), is_reachable=True, signs=("nvidia-smi",))
NEW = Driver(version="590.44.01", cuda=(13, 1), gpus=("NVIDIA H100",), is_reachable=True, signs=("nvidia-smi",))
CPU = Build("2.14.1+cpu", None)
CU130 = Build("2.14.1+cu130", "13.0")
CU126 = Build("2.14.1+cu126", "12.6")
REINSTALL = "pip install --upgrade --force-reinstall torch torchvision"
INDEX = "--index-url https://download.pytorch.org/whl"


def test_the_installed_ones_work() -> None:
    for check in (check_torch, check_torchvision, check_timm, builds.check_triton):
        assert [row.verdict for row in check()] in (["ok"], []), check


def test_a_build_for_cpus_beside_a_gpu() -> None:
    row = judge_build(CPU, NEW, sees_gpu=False)
    assert row.verdict == "failure"
    assert row.found == ("torch 2.14.1+cpu is for CPUs, but this machine has NVIDIA H100, driver 590.44.01 (CUDA 13.1)")
    assert row.fix.endswith(f"{REINSTALL} {INDEX}/cu130")
    assert judge_build(CPU, H100, sees_gpu=False).fix.endswith(f"{INDEX}/cu126")


def test_a_build_that_is_newer_than_the_driver() -> None:
    row = judge_build(CU130, H100, sees_gpu=False, reason="RuntimeError: The NVIDIA driver on your system is too old")
    assert row.verdict == "failure"
    assert row.found == "torch 2.14.1+cu130 is for CUDA 13.0, newer than the driver 570.86.15 (CUDA 12.8) supports"
    assert row.fix.endswith(f"{REINSTALL} {INDEX}/cu126")
    old = Driver(version="440.33.01", cuda=(10, 2), gpus=("Tesla V100",), is_reachable=True, signs=("nvidia-smi",))
    assert judge_build(CU126, old, sees_gpu=False).fix == "sudo apt-get install -y nvidia-driver-580  # and restart"


def test_what_runs_is_not_called_too_new() -> None:
    """A package of forward compatibility stands in for the driver."""
    assert judge_build(CU130, H100, sees_gpu=True).verdict == "note"
    row = judge_build(Build("2.14.1+cu129", "12.9"), H100, sees_gpu=True)
    assert row.verdict == "note"
    assert row.found == "torch is for CUDA 12.9; driver 570.86.15 (CUDA 12.8) is older, but the GPUs are seen"
    assert judge_build(CU126, H100, sees_gpu=True).verdict == "ok"


def test_a_container_that_was_not_given_the_gpus() -> None:
    hidden = Driver(version="590.44.01", gpus=("NVIDIA L4",), is_reachable=False, signs=("/proc/driver/nvidia",))
    row = judge_build(CU130, hidden, sees_gpu=False)
    assert row.verdict == "failure"
    assert row.found.startswith("NVIDIA L4 cannot be reached: there is no /dev/nvidia0")
    assert row.fix.startswith("docker run --gpus all")
    assert judge_build(CPU, hidden, sees_gpu=False).verdict == "failure"


def test_a_gpu_that_the_environment_hides() -> None:
    row = judge_build(CU130, NEW, sees_gpu=False, hidden="")
    assert (row.verdict, row.fix) == ("warning", "unset CUDA_VISIBLE_DEVICES")
    assert row.found == "CUDA_VISIBLE_DEVICES='' hides NVIDIA H100"
    row = judge_build(CU130, NEW, sees_gpu=False, hidden="7", reason="RuntimeError: invalid device ordinal")
    assert (row.verdict, row.fix) == ("failure", "unset CUDA_VISIBLE_DEVICES")
    assert "CUDA_VISIBLE_DEVICES is '7'; RuntimeError: invalid device ordinal" in row.found
    row = judge_build(CU130, NEW, sees_gpu=False, reason="RuntimeError: CUDA unknown error")
    assert row.found == "torch does not see NVIDIA H100: RuntimeError: CUDA unknown error"
    assert row.fix == "sudo modprobe nvidia_uvm && nvidia-smi"


def test_no_driver_and_no_gpu() -> None:
    assert judge_build(CPU, None, sees_gpu=False).verdict == "ok"
    assert judge_build(CU130, None, sees_gpu=False).verdict == "note"
    assert judge_build(CPU, Driver(signs=("libcuda.so.1",)), sees_gpu=False).verdict == "note"
    assert judge_build(Build("2.14.1+rocm7", None, "7.0"), None, sees_gpu=True).verdict == "ok"


def test_torchvision_that_was_compiled_for_another_torch() -> None:
    problem = "RuntimeError: operator torchvision::nms does not exist"
    row = judge_torchvision("2.13.0+cpu", "0.28.0", problem)
    assert row.verdict == "failure"
    assert row.found == f"torch 2.13.0+cpu and torchvision 0.28.0 do not fit one another: {problem}"
    assert row.fix.endswith(f"{REINSTALL} {INDEX}/cpu")
    assert judge_torchvision("2.13.0+cpu", "0.28.0", problem, H100).fix.endswith(f"{INDEX}/cu126")
    assert judge_torchvision("2.13.0", "0.28.0", problem).fix.endswith(REINSTALL)
    assert judge_torchvision("2.13.0a0+git", "0.28.0", problem).fix.endswith(REINSTALL)


def test_builds_that_are_mixed() -> None:
    row = judge_torchvision("2.14.1+cu130", "0.29.1+cpu", None)
    assert row.verdict == "failure"
    assert row.found.startswith("torch 2.14.1+cu130 and torchvision 0.29.1+cpu are of different builds")
    assert row.fix.endswith(f"{INDEX}/cu130")
    for torchvision in ("0.29.1+cu130", "0.29.1"):
        assert judge_torchvision("2.14.1+cu130", torchvision, None).verdict == "ok"


def test_torchvision_that_keeps_the_wrong_box(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    import torchvision.ops

    monkeypatch.setattr(torchvision.ops, "nms", lambda boxes, scores, threshold: torch.tensor([0, 1]))
    (row,) = check_torchvision()
    assert row.verdict == "failure"
    assert "its nms keeps [0, 1] of two equal boxes, not [1]" in row.found


def test_torchvision_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        if name == "torch":
            import torch

            return torch
        raise Unimportable(f"{name} is not installed", name=name, fix="mend")

    monkeypatch.setattr(builds, "require", missing)
    monkeypatch.setattr(builds, "version", lambda name: None)
    (row,) = check_torchvision()
    assert (row.verdict, row.found, row.fix) == ("failure", "torchvision is not installed", "mend")


def test_triton_must_be_the_one_that_torch_wants() -> None:
    wanted = ["sympy", 'triton~=3.8.0; platform_system == "Linux"']
    assert builds.judge_triton("3.8.4", wanted).found == "3.8.4, torch wants triton~=3.8.0"
    row = builds.judge_triton("3.5.1", wanted)
    assert (row.verdict, row.found) == ("failure", "torch needs triton~=3.8.0, 3.5.1 is installed")
    assert row.fix.endswith("pip install 'triton~=3.8.0'")
    assert builds.judge_triton("3.5.1", ["sympy"]).verdict == "ok"


def test_torch_that_cannot_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "ones", lambda *size: torch.full(size, 2.0))
    (row,) = check_torch()
    assert row.verdict == "failure"
    assert "takes the sum of a 2 x 2 product to be 32, not 8" in row.found
    assert row.fix.endswith(REINSTALL)


def test_torch_that_takes_no_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def refuse(array: object) -> None:
        raise RuntimeError("Numpy is not available")

    monkeypatch.setattr(torch, "from_numpy", refuse)
    (row,) = check_torch()
    assert row.verdict == "failure"
    assert "does not work (RuntimeError: Numpy is not available); numpy is " in row.found
    assert row.fix.endswith("pip install --upgrade torch torchvision numpy")
