"""The menu: it starts without torch, and its errors are one message and an exit code."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from codetr.cli import main as menu
from codetr.cli.main import COMMANDS, main
from codetr.errors import ConfigError, Notice, UserError


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "codetr.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("arguments", [["--help"], [], ["--version"], ["zoo", "list"], ["zoo", "--help"], ["trian"]])
def test_starting_does_not_import_torch(arguments: list[str]) -> None:
    done = run(*arguments)
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "click" in imported
    assert imported.isdisjoint({"torch", "torchvision", "numpy", "scipy", "timm", "pydantic", "rich"})


def test_the_menu_names_every_command_and_how_to_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == shown
    assert all(f"  {name} " in shown for name in COMMANDS)
    assert "codetr train zoo/quickstart.yaml" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_menu_exists(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"Usage: codetr {name}" in capsys.readouterr().out


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("codetr 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "error: no command is called 'trian'; did you mean 'train'?\n"),
        (
            ["zzz"],
            "error: no command is called 'zzz'; "
            "valid commands: bench, convert, data, doctor, eval, inspect, launch, predict, train, wrap, zoo\n",
        ),
        (["--bug"], "error: No such option"),
        (["zoo", "show"], "error: Missing argument 'SPEC'."),
    ],
)
def test_a_wrong_command_line_is_one_message_and_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith(message)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A command `fail` that raises what the list holds."""
    errors: list[BaseException] = []

    @click.command()
    def command() -> None:
        raise errors[0]

    monkeypatch.setitem(sys.modules, "codetr_failing", SimpleNamespace(command=command))
    monkeypatch.setattr(menu.Menu, "modules", {"fail": ("codetr_failing", "Fail.")})
    return errors


def test_an_error_of_the_user_is_the_message_alone(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(ConfigError(["a.yaml:1: x: wrong", "a.yaml:2: y: wrong"]))
    assert main(["fail"]) == 2
    assert capsys.readouterr().err == "error: 2 errors in the settings:\n  a.yaml:1: x: wrong\n  a.yaml:2: y: wrong\n"


def test_debug_shows_the_traceback(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing.append(UserError("no such file"))
    assert main(["--debug", "fail"]) == 2
    written = capsys.readouterr().err
    assert "Traceback" in written
    assert "UserError: no such file" in written


def test_a_notice_is_its_text_and_another_warning_keeps_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def command() -> None:
        warnings.warn("x.jpg is left out", Notice, stacklevel=1)
        warnings.warn("a library says so", RuntimeWarning, stacklevel=1)

    monkeypatch.setitem(sys.modules, "codetr_warning", SimpleNamespace(command=command))
    monkeypatch.setattr(menu.Menu, "modules", {"warn": ("codetr_warning", "Warn.")})
    before = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["warn"]) == 0
    first, second = capsys.readouterr().err.splitlines()[:2]
    assert first == "warning: x.jpg is left out"
    assert second.startswith(f"{__file__}:") and second.endswith("RuntimeWarning: a library says so")
    assert warnings.showwarning is before


def test_an_interruption_is_code_130(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing.append(KeyboardInterrupt())
    assert main(["fail"]) == 130


def test_a_defect_is_not_hidden(failing: list[BaseException]) -> None:
    failing.append(RuntimeError("a defect"))
    with pytest.raises(RuntimeError, match="a defect"):
        main(["fail"])


def test_the_console_script_is_this_function(root: Path) -> None:
    assert 'codetr = "codetr.cli.main:main"' in (root / "pyproject.toml").read_text()
