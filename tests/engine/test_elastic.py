"""A run is found again by those that its agent starts anew, and by nobody else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_distributed import SPEC, records, write_data

from codetr.engine.distributed import World
from codetr.engine.elastic import LAUNCH, note_launch, process_identity, restarted_run, run_of_agent
from codetr.engine.run_folder import RunFolder

DIES = Path(__file__).with_name("die_once.py")
ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In a folder of its own, as if an agent had started this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    return tmp_path


def noted(path: str, *, processes: tuple[str, ...] = ("gone",), time: float = 1.0, agent: str | None = None) -> None:
    Path(path).mkdir(parents=True)
    launch = {"agents": ["host/1/2", agent or process_identity(os.getppid())], "processes": processes, "time": time}
    (Path(path) / LAUNCH).write_text(json.dumps(launch))


def test_a_process_is_known_by_machine_number_and_start() -> None:
    host, pid, start = process_identity(os.getpid()).rsplit("/", 2)
    assert (host, pid) == (os.uname().nodename, str(os.getpid()))
    if sys.platform == "linux":
        assert int(start) > 0
        assert process_identity(1) != process_identity(os.getpid())


def test_the_run_of_this_agent_is_found(launched: Path) -> None:
    noted("runs/a", time=1.0)
    noted("runs/a-2", time=3.0)
    noted("runs/a-3", time=2.0)
    noted("runs/b", time=4.0)
    noted("runs/a-4", time=5.0, agent="other/1/1")
    Path("runs/a-5").mkdir()
    assert restarted_run(ALONE, name="a", out=None) == RunFolder(Path("runs/a-2"))
    assert restarted_run(ALONE, name="c", out=None) is None
    assert restarted_run(ALONE, name="c", out=Path("runs/b")) == RunFolder(Path("runs/b"))
    assert restarted_run(ALONE, name="c", out=Path("runs/a-4")) is None


def test_a_second_run_of_the_same_process_is_no_restart(launched: Path) -> None:
    folder = RunFolder(Path("runs/a"))
    note_launch(folder, ALONE)
    kept = json.loads((folder.path / LAUNCH).read_text())
    assert kept["agents"] == [process_identity(os.getppid())]
    assert kept["processes"] == [process_identity(os.getpid())]
    assert restarted_run(ALONE, name="a", out=None) is None


def test_without_an_agent_nothing_is_kept_or_sought(launched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    note_launch(RunFolder(Path("runs/a")), ALONE)
    assert not Path("runs").exists()
    noted("runs/a")
    assert restarted_run(ALONE, name="a", out=None) is None


def test_an_agent_finds_what_it_launched(launched: Path) -> None:
    noted("runs/a", agent=process_identity(os.getpid()))
    noted("elsewhere", agent=process_identity(os.getpid()))
    assert run_of_agent(os.getpid()) == RunFolder(Path("runs/a"))
    assert run_of_agent(os.getpid(), folder=Path("elsewhere")) == RunFolder(Path("elsewhere"))
    assert run_of_agent(1) is None


def test_a_run_goes_on_after_a_rank_was_killed(tmp_path: Path) -> None:
    """Under plain torchrun, in the last of six steps. The command line asks for a new run both times."""
    (tmp_path / "tiny.yaml").write_text(SPEC)
    data = write_data(tmp_path / "data", (1,) * 12)
    agent = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    settings = ["train.checkpoint_every=2", "train.eval_every=null", "train.preflight=false", f"data={data}"]
    done = subprocess.run(
        [sys.executable, *agent, str(DIES), "train", "tiny.yaml", *settings],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DIE_AT": "6", "DIE_NOTE": str(tmp_path / "died")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists()
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == ["tiny"]
    assert "a rank was killed or failed, so that all ranks were started again (restart 1 of 1)." in done.stdout
    # The leader may still have saved step 5 itself when the other rank was gone.
    assert re.search(r"after step [45]\b", done.stdout) and done.stdout.count("step 6/6") == 1
    assert [record["step"] for record in records(tmp_path / "runs" / "tiny")] == [1, 2, 3, 4, 5, 6]
