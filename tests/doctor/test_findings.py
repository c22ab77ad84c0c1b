"""What a finding is, and the command that installs."""

from __future__ import annotations

import importlib.util
import shutil
import sys

import pytest

from codetr.doctor.findings import Finding, crashed, described, failed, pip_install


def test_only_a_failure_fails() -> None:
    rows = [Finding("a", "ok", ""), Finding("b", "note", ""), Finding("c", "warning", "")]
    assert not failed(rows)
    assert failed([*rows, Finding("d", "failure", "")])


def test_an_exception_is_a_failure_with_its_message_and_traceback() -> None:
    try:
        raise ValueError("first line\nsecond line")
    except ValueError as error:
        row = crashed("gpu", error)
    assert (row.check, row.verdict) == ("gpu", "failure")
    assert row.found == "the check ended with ValueError: first line"
    assert row.fix == "codetr --debug doctor"
    assert 'raise ValueError("first line' in row.detail and "second line" in row.detail


def test_a_long_message_is_cut_and_an_empty_one_is_the_kind() -> None:
    assert described(KeyError()) == "KeyError"
    assert described(ValueError("x" * 500)) == "ValueError: " + "x" * 185 + "..."


def test_the_command_is_of_this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/my env/bin/python")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert pip_install("torch>=2.9") == "'/my env/bin/python' -m pip install 'torch>=2.9'"
    monkeypatch.setattr(shutil, "which", lambda name: {"python": "/my env/bin/python"}.get(name))
    assert pip_install("torch", "timm") == "python -m pip install torch timm"


def test_without_pip_it_is_that_of_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/env/bin/python")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert pip_install("torch") == "uv pip install --python /env/bin/python torch"
