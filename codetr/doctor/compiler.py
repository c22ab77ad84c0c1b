"""The C compiler that Triton needs for what starts a kernel, and torch.compile on a CPU for what it generates."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from codetr.doctor.driver import find_driver
from codetr.doctor.findings import Finding


def check_compiler() -> list[Finding]:
    c = os.environ.get("CC") or _first("clang", "gcc", "cc")
    cpp = os.environ.get("CXX") or _first("g++", "clang++", "c++")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return [
        judge_compiler(_existing(c), _existing(cpp), has_header=header.is_file(), has_gpu=find_driver() is not None)
    ]


def judge_compiler(c: str | None, cpp: str | None, *, has_header: bool, has_gpu: bool) -> Finding:
    """c, cpp: the programs, None if there is none. has_header: whether Python.h is there."""
    if sys.platform != "linux":
        return Finding("compiler", "ok", "needed on Linux alone")
    packages = ["gcc"] if c is None else []
    packages += ["g++"] if cpp is None else []
    packages += [f"python3.{sys.version_info.minor}-dev"] if not has_header else []
    if not packages:
        return Finding("compiler", "ok", f"{c} and {cpp}")
    missing = [
        name for name, there in (("a C compiler", c), ("a C++ compiler", cpp), ("Python.h", has_header)) if not there
    ]
    breaks_kernels = has_gpu and (c is None or not has_header)
    who = "the kernels on a GPU and torch.compile" if breaks_kernels else "torch.compile"
    found = f"{' and '.join(missing)} cannot be found: {who} cannot run"
    fix = f"sudo apt-get install -y {' '.join(packages)}"
    return Finding("compiler", "failure" if breaks_kernels else "warning", found, fix)


def _first(*names: str) -> str | None:
    return next((path for path in map(shutil.which, names) if path), None)


def _existing(command: str | None) -> str | None:
    """A command of the environment, which may have options, if its program exists."""
    return command if command and shutil.which(command.split()[0]) else None
