"""Every check exists, and none raises."""

from __future__ import annotations

import importlib

import pytest

from codetr.doctor import checks
from codetr.doctor.checks import CHECKS, OPTIONAL, run_check
from codetr.doctor.importing import Unimportable


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_exists(name: str) -> None:
    module, _, function = CHECKS[name].partition(":")
    assert callable(getattr(importlib.import_module(f"codetr.doctor.{module}"), function))


def test_the_optional_ones_are_checks() -> None:
    assert set(OPTIONAL) < set(CHECKS)


def test_an_exception_and_a_missing_package_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    def defect() -> None:
        raise ZeroDivisionError("a defect")

    def missing() -> None:
        raise Unimportable("torch is not installed", name="torch", fix="mend")

    monkeypatch.setattr(importlib.import_module("codetr.doctor.extras"), "check_extras", defect)
    (row,) = run_check("extras")
    assert (row.verdict, row.found) == ("failure", "the check ended with ZeroDivisionError: a defect")
    monkeypatch.setattr(importlib.import_module("codetr.doctor.gpus"), "check_gpus", missing)
    (row,) = run_check("gpu")
    assert (row.check, row.found, row.fix) == ("gpu", "not checked: torch cannot be imported", "mend")
    monkeypatch.setattr(checks, "CHECKS", {"x": "nothing:check"})
    assert "ModuleNotFoundError" in run_check("x")[0].found
