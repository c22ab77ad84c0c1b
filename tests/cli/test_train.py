"""`codetr train`: what the arguments mean, and the exit code."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import codetr.api
from codetr.cli.main import main
from codetr.engine.launch import Launch
from codetr.engine.trainer import Outcome
from codetr.errors import UserError


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


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was launched, on a machine of eight GPUs."""
    launched: dict[str, Any] = {}

    def launch_ranks(launch: Any, command: list[str], *, folder: Path | None) -> int:
        launched.update(launch=launch, command=command, folder=folder)
        return 143

    monkeypatch.setattr("codetr.engine.launch.launch_ranks", launch_ranks)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    monkeypatch.delenv("RANK", raising=False)
    return launched


def test_several_gpus_run_the_same_command(asked: dict[str, Any], launched: dict[str, Any]) -> None:
    line = ["train", "co_deformable_r50", "data=my data", "--gpus", "2", "--out", "a b", "--max-steps", "3"]
    assert main(["--debug", *line, "train.lr=1e-3"]) == 143
    assert launched["launch"] == Launch(2)
    expected = ["--debug", "train", "--out=a b", "--max-steps=3", "co_deformable_r50", "data=my data", "train.lr=1e-3"]
    assert launched["command"] == expected
    assert launched["folder"] == Path("a b") and "spec" not in asked


def test_a_resumed_run_is_launched(launched: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("extends: [bases/deformable_detr_pp, backbones/resnet50]\n")
    line = ["train", "--resume", str(tmp_path), "--gpus", "4", "--nodes", "2", "--rendezvous", "n1:29500"]
    assert main([*line, "--node-rank", "0", "--max-restarts", "3", "data=D"]) == 143
    assert launched["launch"] == Launch(4, nodes=2, node_rank=0, rendezvous="n1:29500", max_restarts=3)
    assert launched["command"] == ["train", f"--resume={tmp_path}", "data=D"]
    assert launched["folder"] == tmp_path


@pytest.mark.parametrize("options", ["--gpus 1", "--gpus 1 --nodes 1", "--gpus 1 --max-restarts 0"])
def test_one_gpu_needs_no_launcher(asked: dict[str, Any], launched: dict[str, Any], options: str) -> None:
    assert main(["train", "a.yaml", *options.split()]) == 0
    assert asked["spec"] == "a.yaml" and launched == {}


def test_one_rank_can_be_started_again(launched: dict[str, Any]) -> None:
    assert main(["train", "co_deformable_r50", "data=D", "--gpus", "1", "--max-restarts", "2"]) == 143
    assert launched["launch"] == Launch(1, max_restarts=2)


def test_a_rank_launches_nothing(
    asked: dict[str, Any],
    launched: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "a.yaml", "--gpus", "2"]) == 0
    assert asked["spec"] == "a.yaml"
    assert main(["train", "a.yaml", "--gpus", "4"]) == 2
    assert "asks for 4 ranks, but torchrun started 2" in capsys.readouterr().err
    assert launched == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("co_deformable_r50 data=D --nodes 2", "--nodes needs --gpus N"),
        ("co_deformable_r50 data=D --gpus 9", "PyTorch sees 8 here"),
        ("co_deformable_r50 data=D --gpus 5", "16 images cannot be divided among 5 ranks; use 15 or 20"),
        ("--resume runs/a --dry-run", "--dry-run plans a new run"),
    ],
)
def test_what_is_not_launched(
    launched: dict[str, Any], line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *line.split()]) == 2
    assert message in capsys.readouterr().err
    assert launched == {}


def test_a_dry_run_plans_for_all_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: dict[str, Any] = {}
    monkeypatch.setattr("codetr.engine.dry_run.dry_run", lambda spec, **options: planned.update(options))
    assert main(["train", "co_deformable_r50", "data=D", "--dry-run", "--gpus", "8", "--nodes", "3"]) == 0
    assert planned["ranks"] == 24


def test_a_rank_leaves_its_error_to_the_launcher(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise UserError("a bad image")

    monkeypatch.setattr(codetr.api, "train", fail)
    monkeypatch.setenv("CODETR_LAUNCH_OPTIONS", "--gpus 2")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    monkeypatch.setenv("RANK", "1")
    assert main(["train", "a.yaml"]) == 2
    assert capsys.readouterr().err == "" and "a bad image" in (tmp_path / "error.json").read_text()
    monkeypatch.delenv("CODETR_LAUNCH_OPTIONS")
    assert main(["train", "a.yaml"]) == 2
    assert capsys.readouterr().err == "error: a bad image\n"
