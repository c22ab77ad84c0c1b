"""Whether torch, torchvision and timm run, and whether torch is the build for this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from packaging.requirements import Requirement

from codetr.doctor.driver import FLOORS, Driver, find_driver
from codetr.doctor.findings import Finding, Verdict, described, pip_install
from codetr.doctor.importing import Unimportable, require
from codetr.doctor.packages import fix as fix_of
from codetr.doctor.packages import requirements, unmet, version

INDEX = "https://download.pytorch.org/whl"
"""Where PyTorch publishes its builds by the version of CUDA: the package index itself has one of each release."""

BUILDS = {13: "cu130", 12: "cu126"}
"""The build to install for a driver of each major version of CUDA. The one for 12 also has code for older GPUs."""

VISIBLE = "CUDA_VISIBLE_DEVICES"


class Build(NamedTuple):
    """A torch. version: as `torch.__version__`. cuda: as `torch.version.cuda`; None of a build for CPUs. hip: of one
    for AMD GPUs."""

    version: str
    cuda: str | None
    hip: str | None = None

    @property
    def cuda_pair(self) -> tuple[int, int] | None:
        if self.cuda is None:
            return None
        major, minor = self.cuda.split(".")[:2]
        return int(major), int(minor)


def check_torch() -> list[Finding]:
    """torch is imported, multiplies, and takes arrays of numpy."""
    try:
        build = installed_build()
    except Unimportable as error:
        return [Finding("torch", "failure", str(error), error.fix, error.detail)]
    torch, numpy = require("torch"), require("numpy")
    try:
        four = float((torch.ones(2, 2) @ torch.ones(2, 2)).sum()) / 2
        torch.from_numpy(numpy.zeros(1)).numpy()
    except Exception as error:
        found = f"torch {build.version} does not work ({described(error)}); numpy is {numpy.__version__}"
        return [Finding("torch", "failure", found, pip_install("--upgrade", "torch", "torchvision", "numpy"))]
    if four != 4.0:
        found = f"torch {build.version} takes the sum of a 2 x 2 product to be {2 * four:g}, not 8"
        return [Finding("torch", "failure", found, _reinstall())]
    kind = f"for CUDA {build.cuda}" if build.cuda else f"for ROCm {build.hip}" if build.hip else "for CPUs"
    return [Finding("torch", "ok", f"{build.version}, {kind}, works with numpy {numpy.__version__}")]


def installed_build() -> Build:
    """Raises: Unimportable."""
    torch = require("torch")
    return Build(str(torch.__version__), torch.version.cuda, torch.version.hip)


def check_torchvision() -> list[Finding]:
    """torchvision was compiled for this torch if its operators run."""
    torch = require("torch")
    versions = str(torch.__version__), version("torchvision")
    try:
        torchvision, ops = require("torchvision"), require("torchvision.ops")
        versions = versions[0], str(torchvision.__version__)
        kept = ops.nms(torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]]), torch.tensor([0.5, 0.9]), 0.5).tolist()
    except Unimportable as error:
        if versions[1] is None or error.misplaced:
            return [Finding("torchvision", "failure", str(error), error.fix, error.detail)]
        return [judge_torchvision(*versions, str(error), find_driver(), detail=error.detail)]
    except Exception as error:
        return [judge_torchvision(*versions, described(error), find_driver())]
    problem = None if kept == [1] else f"its nms keeps {kept} of two equal boxes, not [1]"
    return [judge_torchvision(*versions, problem, find_driver())]


def judge_torchvision(
    torch: str, torchvision: str | None, problem: str | None, driver: Driver | None = None, *, detail: str = ""
) -> Finding:
    """torch, torchvision: versions with their build, as 2.14.1+cu130. problem: why its operators do not run."""
    kinds = [number.partition("+")[2] for number in (torch, torchvision or "")]
    both = f"torch {torch} and torchvision {torchvision}"
    for_gpu = driver is not None and driver.is_reachable and kinds[0] == "cpu"
    fix = _install_for(driver) if for_gpu and driver is not None else _reinstall(kinds[0])
    if problem is not None:
        found = f"{both} do not fit one another: {problem}"
        return Finding("torchvision", "failure", found, fix, detail)
    if all(kinds) and kinds[0] != kinds[1]:
        found = f"{both} are of different builds: operators on a GPU may be missing"
        return Finding("torchvision", "failure", found, fix)
    return Finding("torchvision", "ok", f"{torchvision}, its nms runs")


def _reinstall(build: str = "") -> str:
    """build: as cu130 or cpu; else what the package index has."""
    known = build == "cpu" or build.startswith("cu")
    index = ["--index-url", f"{INDEX}/{build}"] if known else []
    return pip_install("--upgrade", "--force-reinstall", "torch", "torchvision", *index)


def check_triton() -> list[Finding]:
    """Triton, which is published for Linux, in the version that this torch was made for."""
    require("torch")
    if sys.platform != "linux":
        return []
    try:
        triton = require("triton")
    except Unimportable as error:
        return [Finding("triton", "failure", str(error), error.fix, error.detail)]
    return [judge_triton(str(triton.__version__), requirements("torch") or [])]


def judge_triton(installed: str, wanted_by_torch: Sequence[str]) -> Finding:
    """wanted_by_torch: all that torch requires; a build for CPUs requires no Triton."""
    for problem in unmet("torch", [line for line in wanted_by_torch if "triton" in line], lambda name: installed):
        return Finding("triton", "failure", str(problem), fix_of(problem))
    wanted = [Requirement(line) for line in wanted_by_torch if "triton" in line]
    suffix = f", torch wants {wanted[0].name}{wanted[0].specifier}" if wanted else ", torch wants none"
    return Finding("triton", "ok", f"{installed}{suffix}")


def check_timm() -> list[Finding]:
    require("torch"), require("torchvision")
    try:
        timm = require("timm")
    except Unimportable as error:
        return [Finding("timm", "failure", str(error), error.fix, error.detail)]
    return [Finding("timm", "ok", f"{timm.__version__} can be imported")]


def check_build() -> list[Finding]:
    """torch's build against the NVIDIA driver."""
    build = installed_build()
    torch = require("torch")
    driver = find_driver()
    sees_gpu = bool(torch.cuda.is_available())
    reason = None
    if build.cuda and driver is not None and not sees_gpu:
        try:
            torch.cuda.init()
        except Exception as error:
            reason = described(error)
    return [judge_build(build, driver, sees_gpu=sees_gpu, reason=reason, hidden=os.environ.get(VISIBLE))]


def judge_build(
    build: Build, driver: Driver | None, *, sees_gpu: bool, reason: str | None = None, hidden: str | None = None
) -> Finding:
    """reason: why torch sees no GPU, as far as it says. hidden: CUDA_VISIBLE_DEVICES."""
    if build.hip is not None:
        return Finding("build", "ok", f"torch {build.version} is for AMD GPUs")
    if driver is None:
        kind = "CPUs" if build.cuda is None else f"CUDA {build.cuda}"
        verdict: Verdict = "ok" if build.cuda is None or sees_gpu else "note"
        return Finding("build", verdict, f"torch {build.version} is for {kind}, and there is no NVIDIA driver here")
    if not driver.gpus and not driver.is_reachable and not sees_gpu:
        return Finding("build", "note", f"there is an NVIDIA {driver} ({', '.join(driver.signs)}), but no GPU is seen")
    if build.cuda_pair is None:
        found = f"torch {build.version} is for CPUs, but this machine has {driver.hardware}, {driver}"
        return Finding("build", "failure", found, _install_for(driver))
    if not sees_gpu:
        return _unseen(build, driver, reason=reason, hidden=hidden)
    if driver.cuda is not None and driver.cuda < build.cuda_pair:
        found = f"torch is for CUDA {build.cuda}; {driver} is older, but the GPUs are seen"
        return Finding("build", "note", found)
    return Finding("build", "ok", f"torch is for CUDA {build.cuda}, {driver}")


def _unseen(build: Build, driver: Driver, *, reason: str | None, hidden: str | None) -> Finding:
    """Why a torch for CUDA does not see the GPUs that there are."""
    if hidden in ("", "-1"):
        return Finding("build", "warning", f"{VISIBLE}={hidden!r} hides {driver.hardware}", f"unset {VISIBLE}")
    if build.cuda_pair is not None and driver.supports(build.cuda_pair) is False:
        found = f"torch {build.version} is for CUDA {build.cuda}, newer than the {driver} supports"
        return Finding("build", "failure", found, _install_for(driver))
    if not driver.is_reachable:
        found = f"{driver.hardware} cannot be reached: there is no /dev/nvidia0; a container must be given its GPUs"
        return Finding("build", "failure", found, "docker run --gpus all --ipc=host -it IMAGE codetr doctor")
    hint = f"{VISIBLE} is {hidden!r}; " if hidden is not None else ""
    fix = f"unset {VISIBLE}" if hidden is not None else "sudo modprobe nvidia_uvm && nvidia-smi"
    found = f"torch does not see {driver.hardware}: {hint}{reason or 'it gives no reason'}"
    return Finding("build", "failure", found, fix)


def _install_for(driver: Driver) -> str:
    """The newest build that the driver can run; the newest of all where it does not say; a new driver."""
    wanted = next((build for major, build in BUILDS.items() if driver.supports((major, 0))), None)
    if wanted is None and (driver.cuda or driver.version):
        return f"sudo apt-get install -y nvidia-driver-{max(FLOORS.values())}  # and restart"
    return _reinstall(wanted or "")
