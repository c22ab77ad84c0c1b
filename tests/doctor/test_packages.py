"""Versions against what is required of them."""

from __future__ import annotations

import pytest

from codetr.doctor import packages
from codetr.doctor.packages import check_fit, check_versions, fix, judge_python, unmet

TORCH = [
    "sympy>=1.13.3",
    'triton~=3.8.0; platform_system == "Linux"',
    'colorama; platform_system == "Nowhere"',
    'optree>=0.13.0; extra == "optree"',
]


def installed(**versions: str):
    return versions.get


def test_python() -> None:
    assert judge_python((3, 10, 0), bits=64, path="/p").verdict == "ok"
    old = judge_python((3, 9, 18), bits=64, path="/p")
    assert old.verdict == "failure"
    assert old.found == "3.9.18, /p, 64 bits: codetr needs 3.10 or newer, of 64 bits"
    assert old.fix.startswith("uv venv --python 3.12")
    assert judge_python((3, 12, 1), bits=32, path="/p").verdict == "failure"


def test_requirements_of_this_platform_without_extras() -> None:
    assert list(unmet("torch", TORCH, installed(sympy="1.14", triton="3.8.1"))) == []
    problems = list(unmet("torch", TORCH, installed(sympy="1.12")))
    assert [str(problem) for problem in problems] == [
        "torch needs sympy>=1.13.3, 1.12 is installed",
        "torch needs triton~=3.8.0, it is not installed",
    ]
    assert fix(problems[0]).endswith("-m pip install 'sympy>=1.13.3'")
    assert fix(problems[1]).endswith("-m pip install 'triton~=3.8.0'")


def test_a_preview_release_counts_as_its_version() -> None:
    assert list(unmet("x", ["torch>=2.9"], installed(torch="2.15.0.dev20261101+cu130"))) == []


def test_torch_and_torchvision_are_chosen_together() -> None:
    (problem,) = unmet("codetr", ["torch>=2.9"], installed(torch="2.8.0"))
    assert fix(problem).endswith("pip install --upgrade 'torch>=2.9' torchvision")
    (problem,) = unmet("torchvision", ["torch (==2.14.1)"], installed(torch="2.13.0+cpu"))
    assert str(problem) == "torchvision needs torch==2.14.1, 2.13.0+cpu is installed"
    assert fix(problem).endswith("pip install --upgrade torch torchvision")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, list[str]]]:
    """Packages by name: version and requirements."""
    known: dict[str, tuple[str, list[str]]] = {}
    monkeypatch.setattr(packages, "version", lambda name: known[name][0] if name in known else None)
    monkeypatch.setattr(packages, "requirements", lambda name: known[name][1] if name in known else None)
    return known


def test_what_codetr_needs_is_a_failure_what_others_need_a_warning(world: dict[str, tuple[str, list[str]]]) -> None:
    world["codetr"] = "0.1", ["torch>=2.9", "numpy>=1.26", "torchvision>=0.24"]
    world["torch"] = "2.8.0", ["triton==3.4.0"]
    world["torchvision"] = "0.29.1", ["torch==2.14.1"]
    assert [(row.verdict, row.found) for row in check_versions()] == [
        ("failure", "codetr needs torch>=2.9, 2.8.0 is installed"),
        ("failure", "codetr needs numpy>=1.26, it is not installed"),
        ("warning", "torchvision needs torch==2.14.1, 2.8.0 is installed"),
    ]
    assert all(row.fix for row in check_versions())


def test_all_is_well(world: dict[str, tuple[str, list[str]]]) -> None:
    world["codetr"] = "0.1", ["torch>=2.9"]
    world["torch"] = "2.14.1", []
    (row,) = check_versions()
    assert (row.verdict, row.found) == (
        "ok",
        "torch 2.14.1, torchvision missing, triton missing, timm missing, numpy missing",
    )
    assert check_fit() == []


def test_a_checkout_that_is_not_installed(world: dict[str, tuple[str, list[str]]]) -> None:
    (row,) = check_versions()
    assert row.verdict == "note"
    assert row.found.startswith("codetr itself is not installed")


def test_the_installed_ones() -> None:
    assert packages.version("codetr_nothing") is None
    assert packages.requirements("codetr_nothing") is None
    assert packages.version("torch")
    assert packages.requirements("torch")
