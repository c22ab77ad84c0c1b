"""The kernels against their references, on every device."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING

from codetr.doctor.findings import EXPLAIN, Finding, described, pip_install
from codetr.doctor.gpus import devices
from codetr.doctor.importing import require

if TYPE_CHECKING:
    import torch

    from codetr.doctor.kernel_cases import Case, Result

SHOWN = 3


def check_kernels() -> list[Finding]:
    """A row for each device."""
    require("torch")
    from codetr.doctor.kernel_cases import CASES

    return [check_device(device, CASES) for device in devices()]


def check_device(device: torch.device, cases: dict[str, Case]) -> Finding:
    """Every case, of which none can end the check."""
    from codetr_kernels import which_backend

    begin = time.perf_counter()
    problems: list[str] = []
    details: list[str] = []
    for name, case in cases.items():
        try:
            problems += [f"{name}: {fault}" for fault in _faults(case, device)]
        except Exception as error:
            problems.append(f"{name}: {described(error)}")
            details.append("".join(traceback.format_exception(error)))
    seconds = time.perf_counter() - begin
    return judge(str(device), which_backend(device).name, problems, of=list(cases), seconds=seconds, details=details)


def judge(
    device: str, backend: str, problems: list[str], *, of: list[str], seconds: float, details: list[str]
) -> Finding:
    """of: all that was tried. Of the problems the first few are shown."""
    check = f"kernels {device}"
    if not problems:
        form = "Triton kernels" if backend == "triton" else "PyTorch operations"
        return Finding(check, "ok", f"{form} equal the reference: {', '.join(of)} ({seconds:.1f} s)")
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    found = f"differ from the reference: {'; '.join(problems[:SHOWN])}{more}"
    everything = "\n".join([*problems[SHOWN:], *details])
    if backend == "triton" and not device.startswith("cpu"):
        # What the compiler left for another driver or version is the one thing a user can clear away.
        return Finding(check, "failure", found, "rm -rf ~/.triton/cache && codetr --debug doctor", everything)
    is_torchvisions = all("torchvision" in problem for problem in problems)
    fix = pip_install("--upgrade", "--force-reinstall", "torch", "torchvision") if is_torchvisions else EXPLAIN
    return Finding(check, "failure", found, fix, everything)


def _faults(case: Case, device: torch.device) -> Iterator[str]:
    for result in case(device):
        fault = compared(result)
        if fault is not None:
            yield f"{result.name}: {fault}"


def compared(result: Result) -> str | None:
    """How a result differs from what is expected by more than its limit; None if it does not."""
    from codetr.doctor.kernel_cases import EPSILON

    found, expected = result.found.detach().cpu(), result.expected
    if found.shape != expected.shape:
        return f"has the shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    if not result.limit:
        wrong = int((found != expected).sum())
        return f"{wrong} of {expected.numel()} decisions differ" if wrong else None
    error = float((found.double() - expected).abs().max())
    limit = result.limit * EPSILON * max(1.0, float(expected.abs().max()))
    return None if error <= limit else f"error {error:.1e}, limit {limit:.1e}"
