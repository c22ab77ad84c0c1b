"""The GPUs that torch sees, whether torch has code for them, and what runs on each device."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from codetr.doctor.builds import BUILDS, INDEX
from codetr.doctor.findings import Finding, crashed, pip_install
from codetr.doctor.importing import require

if TYPE_CHECKING:
    import torch

GIB = 2**30


class Gpu(NamedTuple):
    """name: as the driver has it. capability: (major, minor). total, free: bytes of memory."""

    name: str
    capability: tuple[int, int]
    total: int
    free: int


def devices() -> list[torch.device]:
    """Those that torch can compute on: the CPU, every GPU. Raises: Unimportable."""
    torch = require("torch")
    found = [torch.device("cpu")]
    if torch.cuda.is_available():
        found += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append(torch.device("mps"))
    return found


def check_gpus() -> list[Finding]:
    """A row for each."""
    torch = require("torch")
    places = [device for device in devices() if device.type == "cuda"]
    if not places:
        return [Finding("gpu", "note", "torch sees none: everything runs on the CPU")]
    findings = []
    for device in places:
        try:
            free, total = torch.cuda.mem_get_info(device)
            gpu = Gpu(torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device), total, free)
            architectures = torch.cuda.get_arch_list() if torch.version.hip is None else []
            findings.append(judge_gpu(str(device), gpu, architectures))
        except Exception as error:
            findings.append(crashed(f"gpu {device}", error))
    return findings


def judge_gpu(device: str, gpu: Gpu, architectures: Sequence[str]) -> Finding:
    """architectures: what this torch has code for, as `torch.cuda.get_arch_list`; empty if that is not known."""
    check = f"gpu {device}"
    capability = ".".join(map(str, gpu.capability))
    memory = f"{gpu.free / GIB:.1f} of {gpu.total / GIB:.1f} GiB free"
    text = f"{gpu.name}, compute capability {capability}, {memory}"
    if architectures and not has_code(gpu.capability, architectures):
        listed = " ".join(architectures)
        return Finding(check, "failure", f"{text}: this torch has no code for it, only for {listed}", _other(gpu))
    if gpu.capability < (8, 0) and architectures:
        return Finding(check, "warning", f"{text}: older than 8.0 (Ampere), so the reference runs, not the kernels")
    if gpu.free < gpu.total / 2:
        return Finding(check, "note", f"{text}: another program holds the rest", "nvidia-smi")
    return Finding(check, "ok", text)


def has_code(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether a GPU runs what was compiled for these: machine code (sm_80) of its own major version up to its own minor
    one, or an intermediate code (compute_80) of any version up to its own. A letter, as in sm_90a: for that one alone.
    """
    for architecture in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", architecture)
        if match is None:
            continue
        kind, version, letter = match[1], (int(match[2]), int(match[3])), match[4]
        same_major = version[0] == capability[0] and version <= capability
        if version == capability or (not letter and (same_major or (kind == "compute" and version <= capability))):
            return True
    return False


def _other(gpu: Gpu) -> str:
    if gpu.capability < (7, 5):
        return pip_install(
            "--upgrade", "--force-reinstall", "torch", "torchvision", "--index-url", f"{INDEX}/{BUILDS[12]}"
        )
    return pip_install("--upgrade", "torch", "torchvision")


def check_backend() -> list[Finding]:
    """Which implementation of the kernels runs on each device, and why."""
    require("torch")
    from codetr_kernels import which_backend

    findings = []
    for device in devices():
        backend = which_backend(device)
        findings.append(judge_backend(str(device), backend.name, backend.reason, has_gpu=len(devices()) > 1))
    return findings


def judge_backend(device: str, name: str, reason: str, *, has_gpu: bool) -> Finding:
    check, text = f"backend {device}", f"{name}: {reason}"
    if os.environ.get("TRITON_INTERPRET") and "TRITON_INTERPRET" in reason:
        return Finding(check, "warning", text, "unset TRITON_INTERPRET")
    if device.startswith("cuda") and name != "triton":
        fix = pip_install("triton") if "not installed" in reason else ""
        return Finding(check, "warning", text, fix)
    return Finding(check, "ok" if name == "triton" or has_gpu else "note", text)
