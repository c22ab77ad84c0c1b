"""The NVIDIA driver: its kernel module, device files and nvidia-smi."""

from __future__ import annotations

from pathlib import Path

import pytest

from codetr.doctor.driver import Driver, read_driver

SMI = """
==============NVSMI LOG==============

Timestamp                                 : Tue Nov 24 10:00:00 2026
Driver Version                            : 570.86.15
CUDA Version                              : 12.8

Attached GPUs                             : 2
GPU 00000000:01:00.0
    Product Name                          : NVIDIA H100 80GB HBM3
    Product Brand                         : NVIDIA
GPU 00000000:02:00.0
    Product Name                          : NVIDIA A100-SXM4-40GB
"""
PLAIN = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  Sat Feb 24 22:53:14 UTC 2024\nGCC version: 12\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  565.57.01  Release Build  (root@host)\n"


def test_nothing_is_none(tmp_path: Path) -> None:
    assert read_driver(proc=tmp_path / "none", devices=tmp_path, told=None, library=None) is None


def test_nvidia_smi_says_most(tmp_path: Path) -> None:
    driver = read_driver(proc=tmp_path / "none", devices=tmp_path, told=SMI, library="libcuda.so.1")
    assert driver == Driver(
        version="570.86.15",
        cuda=(12, 8),
        gpus=("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB"),
        is_reachable=True,
        signs=("nvidia-smi", "libcuda.so.1"),
    )
    assert str(driver) == "driver 570.86.15 (CUDA 12.8)"
    assert driver.hardware == "NVIDIA H100 80GB HBM3, NVIDIA A100-SXM4-40GB"


@pytest.mark.parametrize(("text", "version"), [(PLAIN, "535.161.08"), (OPEN, "565.57.01")])
def test_a_container_without_the_gpus_sees_the_kernel_module_alone(tmp_path: Path, text: str, version: str) -> None:
    proc, devices = tmp_path / "proc", tmp_path / "dev"
    (proc / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (proc / "gpus" / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA L4\nIRQ:   \t\t 40\n")
    (proc / "version").write_text(text)
    devices.mkdir()
    driver = read_driver(proc=proc, devices=devices, told=None, library=None)
    assert driver == Driver(version=version, gpus=("NVIDIA L4",), is_reachable=False, signs=(str(proc),))
    (devices / "nvidiactl").touch()
    assert read_driver(proc=proc, devices=devices, told=None, library=None) == driver
    (devices / "nvidia0").touch()
    reached = read_driver(proc=proc, devices=devices, told=None, library=None)
    assert reached is not None and reached.is_reachable


def test_libcuda_alone_is_a_driver_of_no_gpu(tmp_path: Path) -> None:
    driver = read_driver(proc=tmp_path / "none", devices=tmp_path, told=None, library="libcuda.so.1")
    assert driver == Driver(signs=("libcuda.so.1",))
    assert (str(driver), driver.hardware) == ("driver of unknown version", "an NVIDIA GPU")


def test_a_driver_runs_its_own_major_version_of_cuda_and_those_before() -> None:
    told = Driver(cuda=(12, 4))
    assert [told.supports(cuda) for cuda in ((11, 8), (12, 8), (13, 0))] == [True, True, False]
    known = Driver(version="535.161.08")
    assert [known.supports(cuda) for cuda in ((11, 8), (12, 8), (13, 0), (14, 0))] == [True, True, False, None]
    assert Driver(version="580.65.06").supports((13, 0)) is True
    assert Driver(version="520.61.05").supports((12, 0)) is False
    assert Driver().supports((12, 0)) is None
