"""The compilers that generated code needs."""

from __future__ import annotations

import sys

import pytest

from codetr.doctor import compiler
from codetr.doctor.compiler import check_compiler, judge_compiler

DEV = f"python3.{sys.version_info.minor}-dev"


@pytest.fixture(autouse=True)
def _linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.sys, "platform", "linux")


def test_all_is_there() -> None:
    row = judge_compiler("/usr/bin/gcc", "/usr/bin/g++", has_header=True, has_gpu=True)
    assert (row.verdict, row.found) == ("ok", "/usr/bin/gcc and /usr/bin/g++")


def test_without_a_gpu_a_missing_one_is_a_warning() -> None:
    row = judge_compiler(None, None, has_header=True, has_gpu=False)
    assert row.verdict == "warning"
    assert row.found == "a C compiler and a C++ compiler cannot be found: torch.compile cannot run"
    assert row.fix == "sudo apt-get install -y gcc g++"


def test_with_a_gpu_the_kernels_cannot_run() -> None:
    row = judge_compiler(None, "/usr/bin/g++", has_header=False, has_gpu=True)
    assert row.verdict == "failure"
    assert row.found == ("a C compiler and Python.h cannot be found: the kernels on a GPU and torch.compile cannot run")
    assert row.fix == f"sudo apt-get install -y gcc {DEV}"
    assert judge_compiler("/usr/bin/gcc", None, has_header=True, has_gpu=True).verdict == "warning"


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.shutil, "which", lambda name: {"gcc-13": "/g", "g++": "/usr/bin/g++"}.get(name))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("CC", "gcc-13 -m64")
    (row,) = check_compiler()
    assert "a C compiler" not in row.found
    monkeypatch.setenv("CC", "icc")
    (row,) = check_compiler()
    assert row.found.startswith("a C compiler")
