"""The process that checks: it may be given broken packages, and may die."""

from __future__ import annotations

from pathlib import Path

import pytest

from codetr.doctor.checks import CHECKS
from codetr.doctor.examination import died, examine
from codetr.doctor.findings import Finding

NEEDS_TORCH = ("torchvision", "triton", "timm", "build", "gpu", "backend", "kernels", "distributed", "gloo")
DIES = (
    "import os, signal, sys\nprint('last words', file=sys.stderr, flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)\n"
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder before all others on the module search path, as PYTHONPATH would put it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def package(place: Path, name: str, text: str) -> None:
    (place / name).mkdir()
    (place / name / "__init__.py").write_text(text)


def examined(*names: str, patience: float = 120.0) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine(names, patience=patience)}


def test_checks_come_in_their_order_and_are_announced() -> None:
    begun: list[str] = []
    rows = list(examine(["cores", "disk", "python"], begun=begun.append))
    assert begun == ["cores", "disk", "python"]
    assert [row.check for row in rows] == ["cores", "disk", "temporary files", "python"]


def test_a_torch_that_cannot_be_imported(place: Path) -> None:
    package(place, "torch", "raise OSError('libcudart.so.13: cannot open shared object file')")
    rows = examined(*CHECKS)
    where = place / "torch" / "__init__.py"
    assert rows["torch"].verdict == "failure"
    assert rows["torch"].found == (
        f"torch cannot be imported from {where}, which is not where packages are installed "
        "(OSError: libcudart.so.13: cannot open shared object file)"
    )
    assert "Traceback" in rows["torch"].detail
    for name in NEEDS_TORCH:
        assert rows[name].verdict == "failure"
        assert rows[name].found == "not checked: torch cannot be imported"
    assert {rows[name].fix for name in ("torch", *NEEDS_TORCH)} == {"unset PYTHONPATH"}
    failures = {name for name, row in rows.items() if row.verdict == "failure"}
    assert failures <= {"torch", *NEEDS_TORCH, "shared memory", "disk", "temporary files"}
    assert rows["evaluators"].verdict == rows["python"].verdict == "ok"


def test_a_torch_that_is_missing(place: Path) -> None:
    (place / "sitecustomize.py").write_text(
        "import sys\n"
        "class Nothing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('torch', 'torchvision'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}')\n"
        "sys.meta_path.insert(0, Nothing())\n"
    )
    rows = examined("torch", "kernels", "images")
    assert rows["torch"].found == "torch is not installed"
    assert rows["torch"].fix.endswith("pip install --upgrade --force-reinstall torch torchvision")
    assert rows["kernels"].fix == rows["torch"].fix
    assert rows["images"].verdict != "failure"


def test_a_torchvision_that_was_compiled_for_another_torch(place: Path) -> None:
    package(place, "torchvision", "import torch\ntorch.library.register_fake('torchvision::nms')(lambda *a: None)\n")
    rows = examined("torch", "torchvision", "timm", "kernels")
    problem = "RuntimeError: operator torchvision::nms does not exist"
    assert rows["torch"].verdict == "ok"
    assert rows["torchvision"].verdict == "failure" and problem in rows["torchvision"].found
    assert rows["timm"].found == "not checked: torchvision cannot be imported"
    assert rows["kernels cpu"].found == f"differ from the reference: nms: {problem}"
    assert rows["kernels cpu"].fix.endswith("--force-reinstall torch torchvision")


def test_a_process_that_dies_is_a_finding_and_the_rest_is_checked(place: Path) -> None:
    package(place, "hotcoco", DIES)
    begun: list[str] = []
    rows = {row.check: row for row in examine(["python", "evaluators", "cores"], begun=begun.append)}
    assert list(rows) == begun == ["python", "evaluators", "cores"]
    row = rows["evaluators"]
    assert (row.verdict, row.found) == ("failure", "the process that ran this check was ended by SIGSEGV")
    assert row.fix == "codetr --debug doctor"
    assert "last words" in row.detail and "Fatal Python error" in row.detail
    assert rows["cores"].verdict != "failure"


def test_a_process_that_dies_at_its_start(place: Path) -> None:
    (place / "sitecustomize.py").write_text("import os\nos._exit(3)\n")
    rows = list(examine(["python", "cores"]))
    assert [(row.check, row.found) for row in rows] == [
        ("python", "the process that ran this check ended with exit code 3"),
        ("cores", "the process that ran this check ended with exit code 3"),
    ]


def test_what_is_printed_does_not_come_between(place: Path) -> None:
    package(place, "hotcoco", "import os\nprint('{}')\nos.write(1, b'{\"check\": 1}\\n')\nraise ImportError('no')\n")
    rows = examined("evaluators", "cores")
    assert set(rows) == {"evaluators", "cores"}
    assert "ImportError: no" in rows["evaluators"].found


def test_a_check_that_hangs_is_stopped(place: Path) -> None:
    package(place, "hotcoco", "import time\ntime.sleep(600)\n")
    rows = examined("evaluators", "cores", patience=3.0)
    assert rows["evaluators"].found == "the check was not done within 3 s and was stopped"
    assert rows["cores"].verdict != "failure"


def test_how_a_process_ended() -> None:
    assert died("x", -9, "", late=False, patience=1).found == "the process that ran this check was ended by SIGKILL"
    assert died("x", 1, "why", late=False, patience=1).detail == "why"
