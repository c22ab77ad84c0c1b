"""Ranks are started as asked, told to save, and their end is said once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_distributed import SPEC, write_data

from codetr.engine import launch
from codetr.engine.launch import Launch, check_inside, check_launch, record_failure, resume_command
from codetr.errors import UserError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nodes": 2}, "--rendezvous HOST:PORT"),
        ({"rendezvous": "a:1"}, "several machines"),
        ({"nodes": 2, "rendezvous": "a:1", "node_rank": 2}, "count from 0"),
        ({"nodes": 2, "rendezvous": "node1"}, "no port"),
        ({"gpus": 4}, r"--gpus 4: PyTorch sees 3 here. Use --gpus 3"),
    ],
)
def test_what_cannot_be_launched(settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(UserError, match=message):
        check_launch(Launch(**{"gpus": 2, **settings}), device="auto")


def test_without_a_gpu_processes_on_the_cpu_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"no GPU here. With train.device=cpu, --gpus 2"):
        check_launch(Launch(2), device="auto")
    check_launch(Launch(2), device="cpu")


def test_torchrun_and_the_command_line_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_inside(Launch(2, nodes=2))
    with pytest.raises(UserError, match=r"asks for 2 ranks, but torchrun started 4"):
        check_inside(Launch(2))


def test_several_machines_meet_at_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_NODEID", raising=False)
    first = launch._agent_options(Launch(8, nodes=2, rendezvous="n1:29500", node_rank=0, max_restarts=3))
    for option in ("--nproc-per-node=8", "--nnodes=2", "--rdzv-endpoint=n1:29500", "--rdzv-conf=is_host=1"):
        assert option in first
    assert "--max-restarts=3" in first and "--standalone" not in first
    several = Launch(8, nodes=2, rendezvous="n1:29500")
    assert not any("is_host" in option for option in launch._agent_options(several))
    monkeypatch.setenv("SLURM_NODEID", "1")
    assert "--rdzv-conf=is_host=0" in launch._agent_options(several)
    assert "--standalone" in launch._agent_options(Launch(8))


def test_a_run_goes_on_as_it_was_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    options = Launch(8, nodes=2, rendezvous="n1:29500", node_rank=1, max_restarts=3).options()
    assert options == "--gpus 8 --nodes 2 --rendezvous n1:29500 --max-restarts 3"
    monkeypatch.setenv(launch.OPTIONS, "--gpus 2")
    assert resume_command(Path("runs/a b")) == "codetr train --resume 'runs/a b' --gpus 2"


def test_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    with launch._environment(Launch(2)):
        assert os.environ[launch.OPTIONS] == "--gpus 2"
        assert os.environ["OMP_NUM_THREADS"] == str(max(1, cores // 2))
    assert launch.OPTIONS not in os.environ and "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with launch._environment(Launch(2)):
        assert os.environ["OMP_NUM_THREADS"] == "7"
        assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE" not in os.environ
    with launch._environment(Launch(2, nodes=2, rendezvous="n1:29500")):
        assert os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"


def leave(logs: Path, error: Exception, *, rank: int, time: float, attempt: int = 0) -> None:
    """What a rank leaves that failed with an error."""
    place = logs / "id" / f"attempt_{attempt}" / str(rank)
    place.mkdir(parents=True)
    stack = f"Traceback\n{type(error).__name__}: {error}\n"
    message = {"message": str(error), "extraInfo": {"py_callstack": stack, "timestamp": str(int(time))}}
    record = {"message": message, "is_user_error": isinstance(error, UserError), "rank": rank, "time": time}
    (place / "error.json").write_text(json.dumps(record))


def test_an_error_of_the_user_is_the_cause_of_others(tmp_path: Path) -> None:
    leave(tmp_path, RuntimeError("connection closed"), rank=0, time=1.0)
    leave(tmp_path, UserError("a bad image"), rank=1, time=2.0)
    with pytest.raises(UserError, match=r"^a bad image$"):
        launch._explain(launch._records(tmp_path), {0: 1}, going_on="")


def test_the_first_exception_is_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    leave(tmp_path, UserError("of an earlier attempt"), rank=0, time=0.0, attempt=0)
    leave(tmp_path, RuntimeError("second"), rank=0, time=2.0, attempt=10)
    leave(tmp_path, ValueError("first"), rank=1, time=1.5, attempt=10)
    assert launch._explain(launch._records(tmp_path), {0: 1, 1: 1}, going_on=" Go on.") == 1
    assert capfd.readouterr().err == "error: rank 1 failed:\nTraceback\nValueError: first\nGo on.\n"


def test_a_rank_that_was_killed_is_the_cause_of_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    leave(tmp_path, RuntimeError("connection closed"), rank=0, time=1.0)
    assert launch._explain(launch._records(tmp_path), {0: 1, 1: -9}, going_on=" Go on.") == 137
    error = capfd.readouterr().err
    assert "rank 1 was ended by SIGKILL (the system does so when memory runs out)" in error and "Go on." in error


def test_ranks_that_were_told_to_stop_have_said_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert launch._explain([], {0: 143, 1: 143}, going_on=" Go on.") == 143
    assert launch._explain([], {1: -15}, going_on=" Go on.") == 143
    assert capfd.readouterr().err == ""


def test_an_exception_is_left_to_our_launcher_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "id" / "attempt_0" / "3" / "error.json"
    place.parent.mkdir(parents=True)
    monkeypatch.delenv(launch.OPTIONS, raising=False)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(place))
    monkeypatch.setenv("RANK", "3")
    assert not record_failure(UserError("no"))  # started by torchrun: the rank says it itself
    assert not place.exists()
    monkeypatch.setenv(launch.OPTIONS, "--gpus 4")
    assert record_failure(UserError("no"))
    (record,) = launch._records(tmp_path)
    assert (record["rank"], record["is_user_error"], record["message"]["message"]) == (3, True, "no")
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    assert ProcessFailure(local_rank=3, pid=1, exitcode=2, error_file=str(place)).timestamp > 0  # the agent reads it


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    (folder / "tiny.yaml").write_text(SPEC)
    command = [sys.executable, "-m", "codetr.cli.main", "train", "tiny.yaml", "--gpus", "2", *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_signal_to_the_launcher_saves(tmp_path: Path) -> None:
    write_data(tmp_path / "data", (1, 1, 1, 1))
    process = start(
        tmp_path, "data=data", "train.epochs=10000", "train.eval_every=null", "train.preflight=false", "--out", "run"
    )
    assert process.stdout is not None
    next(line for line in process.stdout if "step 2/" in line)
    process.send_signal(signal.SIGTERM)
    printed, error = process.communicate(timeout=300)
    assert process.returncode == 143, error
    assert error == ""
    assert printed.count("stopped") == 1 and "by signal 15" in printed
    assert printed.count("codetr train --resume run --gpus 2") == 1
    assert any((tmp_path / "run" / "checkpoints").iterdir())


def test_an_error_of_the_user_is_said_once(tmp_path: Path) -> None:
    process = start(tmp_path, "data=nothing")
    _, error = process.communicate(timeout=300)
    assert process.returncode == 2
    assert error.startswith("error: data.dir: no folder nothing") and error.count("\n") == 1
