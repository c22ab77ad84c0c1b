"""The NVIDIA driver and the GPUs behind it, found without torch."""

from __future__ import annotations

import ctypes.util
import functools
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc/driver/nvidia")
DEVICES = Path("/dev")

FLOORS = {13: 580, 12: 525, 11: 450}
"""The oldest driver branch of each major version of CUDA.

Source: NVIDIA, CUDA Compatibility, table of minor version compatibility.
"""


@dataclass(frozen=True)
class Driver:
    """version: of the driver, as 570.86.15, None if not known. cuda: (major, minor) that it says it supports, None if
    not known. gpus: names, as far as found. is_reachable: whether a program here can talk to the GPUs. signs: where
    the driver was seen."""

    version: str | None = None
    cuda: tuple[int, int] | None = None
    gpus: tuple[str, ...] = ()
    is_reachable: bool = False
    signs: tuple[str, ...] = ()

    def supports(self, cuda: tuple[int, int]) -> bool | None:
        """Whether programs of that CUDA run: those of the driver's own major version do, of whatever minor one.

        None if that cannot be told.
        """
        if self.cuda is not None:
            return self.cuda[0] >= cuda[0]
        if self.version is None or cuda[0] not in FLOORS:
            return None
        return int(self.version.split(".")[0]) >= FLOORS[cuda[0]]

    @property
    def hardware(self) -> str:
        """The names of the GPUs."""
        return ", ".join(self.gpus) or "an NVIDIA GPU"

    def __str__(self) -> str:
        version = self.version or "of unknown version"
        return f"driver {version}" + (f" (CUDA {self.cuda[0]}.{self.cuda[1]})" if self.cuda else "")


@functools.cache
def find_driver() -> Driver | None:
    """What there is of an NVIDIA driver on this machine; None if there is nothing."""
    told = _ask_nvidia_smi()
    return read_driver(proc=PROC, devices=DEVICES, told=told, library=ctypes.util.find_library("cuda"))


def read_driver(*, proc: Path, devices: Path, told: str | None, library: str | None) -> Driver | None:
    """From the kernel module's folder, the device files, the text of `nvidia-smi -q` and the name of libcuda."""
    signs = [str(proc)] if proc.is_dir() else []
    signs += ["nvidia-smi"] if told else []
    signs += [library] if library else []
    if not signs:
        return None
    files = [*devices.glob("nvidia[0-9]*"), *devices.glob("dxg")]  # dxg: of Windows' subsystem for Linux
    names = re.findall(r"^\s*Product Name\s*:\s*(.+?)\s*$", told or "", re.MULTILINE) or _names(proc)
    return Driver(
        version=_first(r"^Driver Version\s*:\s*([\d.]+)", told) or _first(r"Module.*?\s(\d+\.[\d.]+)\s", _text(proc)),
        cuda=_pair(_first(r"^CUDA.*Version\s*:\s*(\d+\.\d+)", told)),
        gpus=tuple(names),
        is_reachable=bool(files) or bool(told and names),
        signs=tuple(signs),
    )


def _ask_nvidia_smi() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run([program, "-q"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):  # a driver that hangs is told of by torch
        return None
    return done.stdout if done.returncode == 0 else None


def _names(proc: Path) -> list[str]:
    files = sorted(proc.glob("gpus/*/information"))
    found = [_first(r"^Model:\s*(.+?)\s*$", file.read_text(errors="replace")) for file in files]
    return [name or "NVIDIA GPU" for name in found]


def _text(proc: Path) -> str:
    file = proc / "version"
    return file.read_text(errors="replace") if file.is_file() else ""


def _first(pattern: str, text: str | None) -> str | None:
    match = re.search(pattern, text or "", re.MULTILINE)
    return match.group(1) if match else None


def _pair(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    major, minor = text.split(".")
    return int(major), int(minor)
