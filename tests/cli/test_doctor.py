"""`codetr doctor`: what is printed, written and returned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from codetr.cli.main import main
from codetr.doctor import examination
from codetr.doctor.checks import CHECKS
from codetr.doctor.findings import Finding

GOOD = Finding("python", "ok", "3.12.1")
BAD = Finding("torch", "failure", "torch is not installed", "python -m pip install torch", "Traceback of it")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Set what is found; gives the list of the checks that are asked for."""

    def find(*findings: Finding) -> list[str]:
        names: list[str] = []

        def examine(wanted: Sequence[str], *, begun: object = None) -> Iterator[Finding]:
            names.extend(wanted)
            yield from findings

        monkeypatch.setattr(examination, "examine", examine)
        return names

    return find


def test_no_failure_is_code_0(asked: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    names = asked(GOOD, Finding("disk", "warning", "5 GiB free", "move"))
    assert main(["doctor"]) == 0
    assert names == [name for name in CHECKS if name != "gloo"]
    assert capsys.readouterr().out == (
        "ok       python          3.12.1\n"
        "warning  disk            5 GiB free\n"
        "                         fix: move\n"
        "\nno failures, 1 warning, 2 rows\n"
    )


def test_a_failure_is_code_1_with_its_fix(
    asked: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked(GOOD, BAD)
    file = tmp_path / "new" / "doctor.json"
    assert main(["doctor", "--json", str(file)]) == 1
    text = capsys.readouterr().out
    assert "fix: python -m pip install torch" in text
    assert "Traceback" not in text
    written = json.loads(file.read_text())
    assert written["passed"] is False
    assert [row["check"] for row in written["findings"]] == ["python", "torch"]
    assert main(["--debug", "doctor"]) == 1
    assert "--- torch\nTraceback of it\n" in capsys.readouterr().out


def test_two_processes_are_asked_for(asked: Callable[..., list[str]]) -> None:
    names = asked(GOOD)
    assert main(["doctor", "--distributed"]) == 0
    assert names == list(CHECKS)


def test_a_file_that_cannot_be_written(
    asked: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked(GOOD)
    (tmp_path / "file").touch()
    assert main(["doctor", "--json", str(tmp_path / "file" / "x.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_command_itself_does_not_import_torch(tmp_path: Path) -> None:
    """It reports on a torch that ends whatever imports it."""
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    file = tmp_path / "doctor.json"
    done = subprocess.run(
        [sys.executable, "-m", "codetr.cli.main", "doctor", "--json", str(file)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "failure  torch           the process that ran this check was ended by SIGILL\n" in done.stdout
    rows = {row["check"]: row for row in json.loads(file.read_text())["findings"]}
    assert rows["kernels"]["verdict"] == "failure"
    assert rows["evaluators"]["verdict"] == "ok"
