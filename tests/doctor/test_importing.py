"""Packages that cannot be imported: the reason and the command."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from codetr.doctor.importing import Unimportable, explained, is_installed, not_checked, origin, remedy, require

SITE = Path(sysconfig.get_path("purelib"))
BROKEN = OSError("libcudart.so.13: cannot open shared object file")


def test_a_package_that_is_whole_is_given() -> None:
    import numpy

    assert require("numpy") is numpy


def test_the_reason_is_the_same_when_it_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that fails halfway would be found half imported the second time."""
    (tmp_path / "codetr_half.py").write_text(
        "import builtins\nbuiltins.half = getattr(builtins, 'half', 0) + 1\nraise OSError(f'time {builtins.half}')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):
        with pytest.raises(Unimportable, match="time 1") as caught:
            require("codetr_half")
        assert caught.value.misplaced
        assert "OSError" in caught.value.detail


def test_what_is_not_there() -> None:
    with pytest.raises(Unimportable, match=r"^codetr_nothing is not installed$") as caught:
        require("codetr_nothing")
    assert caught.value.fix.endswith("pip install --upgrade --force-reinstall codetr_nothing")
    assert not caught.value.misplaced
    assert origin("codetr_nothing") is None


def test_a_broken_package_is_reinstalled_torch_with_torchvision() -> None:
    where = SITE / "torch" / "__init__.py"
    assert explained("torch", BROKEN, where) == f"torch cannot be imported (OSError: {BROKEN})"
    assert remedy("torch", BROKEN, where).endswith("--force-reinstall torch torchvision")
    assert remedy("torchvision.ops", BROKEN, where).endswith("--force-reinstall torch torchvision")
    assert remedy("timm", BROKEN, where).endswith("--force-reinstall timm")


def test_what_hides_a_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = tmp_path / "torch.py"
    expected = f"torch cannot be imported from {where}, which is not where packages are installed (OSError: {BROKEN})"
    assert explained("torch", BROKEN, where) == expected
    assert "pip install" in remedy("torch", BROKEN, where)
    monkeypatch.chdir(tmp_path)
    assert remedy("torch", BROKEN, where) == "cd ~ && codetr doctor"
    monkeypatch.setenv("PYTHONPATH", f":{tmp_path}")
    assert remedy("torch", BROKEN, where) == "unset PYTHONPATH"


def test_libraries_of_another_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ImportError("libtorch_cuda.so: undefined symbol: ncclCommResume")
    where = SITE / "torch" / "__init__.py"
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert "pip install" in remedy("torch", error, where)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/local/cuda/lib64")
    assert remedy("torch", error, where).startswith("unset LD_LIBRARY_PATH")


def test_the_standard_library_is_installed(tmp_path: Path) -> None:
    import json

    assert is_installed(Path(json.__file__))
    assert is_installed(SITE / "x.py")
    assert not is_installed(tmp_path / "x.py")


def test_torch_explains_itself_in_its_own_row_others_in_that_of_the_check() -> None:
    error = Unimportable("torch cannot be imported (a long story)", name="torch", fix="mend", detail="trace")
    row = not_checked("gpu", error)
    assert (row.verdict, row.found, row.fix) == ("failure", "not checked: torch cannot be imported", "mend")
    row = not_checked("images", Unimportable("PIL is not installed", name="PIL", fix="mend"))
    assert row.found == "not checked: PIL is not installed"
