"""What processes talk to each other through: NCCL between GPUs, gloo between processes on CPUs."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from codetr.doctor.findings import EXPLAIN, Finding, pip_install
from codetr.doctor.importing import require

WAIT = 60.0
"""Seconds for two processes to start and to add."""

_ADD = """
import json, sys
from datetime import timedelta
sys.path[:] = json.loads(sys.argv[3])
import torch, torch.distributed as dist
rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method=sys.argv[1], rank=rank, world_size=2, timeout=timedelta(seconds=30))
total = torch.tensor([rank + 1.0])
dist.all_reduce(total)
dist.destroy_process_group()
sys.exit(0 if total.tolist() == [3.0] else f"1 + 2 gave {total.tolist()}")
"""


def check_communication() -> list[Finding]:
    """What torch was built with."""
    torch = require("torch")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not torch.distributed.is_available():
        return [judge_communication(gpus, nccl=None, gloo=False)]
    nccl = torch.distributed.is_nccl_available()
    version = ".".join(map(str, torch.cuda.nccl.version())) if nccl and gpus else ""
    return [judge_communication(gpus, nccl=version if nccl else None, gloo=torch.distributed.is_gloo_available())]


def judge_communication(gpus: int, *, nccl: str | None, gloo: bool) -> Finding:
    """nccl: its version, "" if that is not asked for, None if torch was built without it."""
    fix = pip_install("--upgrade", "--force-reinstall", "torch", "torchvision")
    if not gloo:
        return Finding("distributed", "failure", "this torch was built without gloo: runs have one process", fix)
    if nccl is None and gpus > 1:
        return Finding("distributed", "failure", f"this torch was built without NCCL, for {gpus} GPUs", fix)
    return Finding("distributed", "ok", "gloo" if nccl is None else f"gloo, NCCL {nccl}".rstrip())


def check_gloo() -> list[Finding]:
    """Two processes add two numbers."""
    require("torch")
    with tempfile.TemporaryDirectory(prefix="codetr-doctor-") as folder, contextlib.ExitStack() as stack:
        arguments = [sys.executable, "-c", _ADD, f"file://{Path(folder) / 'store'}"]
        logs = [stack.enter_context(tempfile.TemporaryFile(mode="w+", errors="replace")) for _ in range(2)]
        ranks = [
            subprocess.Popen([*arguments, str(rank), json.dumps(sys.path)], stdout=subprocess.DEVNULL, stderr=log)
            for rank, log in enumerate(logs)
        ]
        deadline = time.monotonic() + WAIT
        try:
            codes = [rank.wait(timeout=max(0.0, deadline - time.monotonic())) for rank in ranks]
        except subprocess.TimeoutExpired:
            return [judge_gloo(f"two processes did not meet within {WAIT:g} s")]
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
        for log in logs:
            log.seek(0)
        broken = [log.read().strip() or "a process died" for code, log in zip(codes, logs, strict=True) if code]
    return [judge_gloo(broken[0] if broken else None)]


def judge_gloo(problem: str | None) -> Finding:
    """problem: what the processes wrote, None if they met and added."""
    if problem is None:
        return Finding("gloo", "ok", "two processes add two numbers")
    last = problem.splitlines()[-1]
    fix = EXPLAIN if "ModuleNotFoundError" in last else "export GLOO_SOCKET_IFNAME=lo"
    return Finding("gloo", "failure", f"two processes cannot add two numbers: {last}", fix, problem)
