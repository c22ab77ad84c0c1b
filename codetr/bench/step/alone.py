"""One subject in a process of its own, whose resident memory is all its own.

The process is a plain `python -m codetr.bench.step.alone`, which reads what to measure from its standard input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codetr.errors import UserError
from codetr.spec import Spec

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Request:
    """What to measure. size: height and width of rendered images, or None for the data of the spec."""

    subject: str
    spec: Spec
    size: tuple[int, int] | None
    steps: int
    warmup: int


def measure_alone(request: Request) -> dict[str, Any]:
    """A `Result` as a dictionary. On a CPU its peak memory is what the process grew by, from before the model was made.

    Raises: UserError if the process ended without a result, such as by the system for want of memory.
    """
    document = {**request.__dict__, "spec": request.spec.model_dump(mode="json")}
    command = [sys.executable, "-m", "codetr.bench.step.alone"]
    done = subprocess.run(command, input=json.dumps(document), capture_output=True, text=True, check=False)
    if done.returncode:
        ended = f"was ended by signal {-done.returncode}" if done.returncode < 0 else "failed"
        why = " (the system does so when memory runs out)" if done.returncode == -9 else ""
        last = done.stderr.strip().rpartition("\n")[2]
        raise UserError(f"the process that measures {request.subject!r} {ended}{why}{': ' if last else ''}{last}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure_here(request: Request) -> dict[str, Any]:
    """The same in this process, which should not have done anything else."""
    import torch

    from codetr.bench.step.batches import open_source
    from codetr.bench.step.measuring import run
    from codetr.bench.step.recorder import clock_of
    from codetr.bench.step.subjects import make_subject
    from codetr.engine.distributed import choose_device

    spec = request.spec
    device = choose_device(spec.train.device)
    if spec.train.threads is not None:
        torch.set_num_threads(spec.train.threads)
    source = open_source(spec, request.size, pinned=device.type == "cuda")
    before = _restart_peak()
    (result,) = run(
        [lambda: make_subject(request.subject, spec, source.classes, device)],
        source,
        steps=request.steps,
        warmup=request.warmup,
        clock=clock_of(device),
        device=device,
    )
    found = result.as_dict()
    if device.type == "cpu":
        found["peak_memory"] = _peak() - before
    return found


def _restart_peak() -> int:
    """Bytes that are resident now. On Linux the peak is counted from here on; elsewhere from the process's start."""
    if os.access(_RESET, os.W_OK):
        _RESET.write_text("5")
    return _peak()


def _peak() -> int:
    """The most bytes that were resident."""
    if _STATUS.is_file():
        entries = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines() if ":" in line)
        if "VmHWM" in entries:
            return 1024 * int(entries["VmHWM"].split()[0])
    import resource  # of Unix alone

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used


def _read(text: str) -> Request:
    document = json.loads(text)
    size = document["size"]
    return Request(
        document["subject"],
        Spec.model_validate(document["spec"]),
        None if size is None else (int(size[0]), int(size[1])),
        document["steps"],
        document["warmup"],
    )


if __name__ == "__main__":
    print(json.dumps(measure_here(_read(sys.stdin.read()))))
