"""`codetr train`: what the arguments mean, and the exit code."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import codetr.api
from codetr.cli.main import main
from codetr.engine.trainer import Outcome


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was asked of training, which ends as `asked["signal"]` says."""
    asked: dict[str, Any] = {"signal": None}

    def train(spec: str | None, **options: Any) -> SimpleNamespace:
        asked.update(spec=spec, **options)
        outcome = Outcome(step=1, finished=True, figures={}, signal=asked["signal"])
        return SimpleNamespace(outcome=outcome)

    monkeypatch.setattr(codetr.api, "train", train)
    return asked


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a.yaml", {"spec": "a.yaml", "resume": None, "overrides": ()}),
        ("a.yaml data=D train.lr=1", {"spec": "a.yaml", "overrides": ("data=D", "train.lr=1")}),
        ("a.yaml --max-steps 3 --out R x=1", {"overrides": ("x=1",), "max_steps": 3, "out": Path("R")}),
        ("--resume", {"spec": None, "resume": True}),
        ("--resume runs/a", {"spec": None, "resume": "runs/a"}),
        ("a.yaml --resume", {"spec": "a.yaml", "resume": True}),
        ("--resume a.yaml x=1", {"spec": "a.yaml", "resume": True, "overrides": ("x=1",)}),
        ("--resume train.epochs=2", {"spec": None, "resume": True, "overrides": ("train.epochs=2",)}),
        ("--resume runs/a train.epochs=2", {"spec": None, "resume": "runs/a", "overrides": ("train.epochs=2",)}),
    ],
)
def test_arguments(asked: dict[str, Any], line: str, expected: dict[str, Any]) -> None:
    assert main(["train", *line.split()]) == 0
    assert {key: asked[key] for key in expected} == expected


@pytest.mark.parametrize(("signal", "code"), [(2, 130), (15, 143), (None, 0)])
def test_an_interrupted_run_has_the_exit_code_of_its_signal(
    asked: dict[str, Any], signal: int | None, code: int
) -> None:
    asked["signal"] = signal
    assert main(["train", "a.yaml"]) == code


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "name a spec to train, or a run to go on with: --resume RUN"),
        ("train.lr=1", "name a spec to train"),
        ("--resume runs/a --out b", "leave --out away"),
        ("a.yaml --max-steps 0", "--max-steps"),
    ],
)
def test_mistakes(asked: dict[str, Any], line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *line.split()]) == 2
    assert message in capsys.readouterr().err
    assert "spec" not in asked


def test_a_data_set_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "co_deformable_r50", f"data={tmp_path}/nothing", "train.device=cpu"]) == 2
    error = capsys.readouterr().err
    assert f"no folder {tmp_path}/nothing" in error and "Traceback" not in error
