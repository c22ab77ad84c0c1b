"""The batch file, run by bash with programs in place of SLURM's that write down how they were called."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from codetr.engine.slurm import Job, batch_file

JOB = Job("mine", "my spec.yaml", ("data=D", "heads={atss: {}}", "a='$HOME'"), "runs/a b", nodes=2, gpus=4, cpus=32)
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then printf 'n17\\nn18\\n'; else echo "$@" >> requeued; fi
"""
SRUN = """#!/bin/bash
printf '%s\\n' "$@" > called
exit ${CODE:-0}
"""
WAITING = """#!/bin/bash
trap 'sleep 0.3; echo saved > told; exit $CODE' TERM
touch started
for i in $(seq 100); do sleep 0.1; done
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    program(tmp_path, "scontrol", SCONTROL)
    program(tmp_path, "srun", SRUN)
    return tmp_path


def program(place: Path, name: str, text: str) -> None:
    (place / "bin" / name).write_text(text)
    (place / "bin" / name).chmod(0o755)


def start(place: Path, job: Job, **environment: str) -> subprocess.Popen[str]:
    (place / "job.sbatch").write_text(batch_file(job))
    slurm = {"SLURM_JOB_ID": "70123", "SLURM_JOB_NUM_NODES": str(job.nodes), "SLURM_JOB_NODELIST": "n[17-18]"}
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", "job.sbatch"],
        cwd=place,
        env={**os.environ, **slurm, "SLURM_CPUS_PER_TASK": "32", "PATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def call(place: Path, job: Job = JOB, **environment: str) -> list[str]:
    """The arguments of srun."""
    process = start(place, job, **environment)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (int(environment.get("CODE", "0")), "")
    return (place / "called").read_text().splitlines()


def test_one_task_a_machine_starts_its_ranks(place: Path) -> None:
    assert call(place) == [
        "--ntasks-per-node=1",
        "--kill-on-bad-exit=1",
        *[sys.executable, "-m", "codetr.cli.main", "train"],
        *["my spec.yaml", "data=D", "heads={atss: {}}", "a='$HOME'"],
        *["--gpus", "4", "--max-restarts", "3", "--nodes", "2"],
        *["--rendezvous", "n17:20123", "--out=runs/a b-70123"],
    ]


def test_one_machine_meets_nobody(place: Path) -> None:
    called = call(place, replace(JOB, nodes=1))
    assert called[-5:] == ["--gpus", "4", "--max-restarts", "3", "--out=runs/a b-70123"]


def test_a_job_that_comes_again_goes_on(place: Path) -> None:
    run = place / "runs" / "a b-70123"
    (run / "checkpoints" / "step").mkdir(parents=True)
    assert call(place, SLURM_RESTART_COUNT="1")[-1] == "--resume=runs/a b-70123"
    assert run.exists()


def test_a_job_that_comes_again_before_the_first_checkpoint_starts_anew(place: Path) -> None:
    run = place / "runs" / "a b-70123"
    (run / "checkpoints").mkdir(parents=True)
    (run / "spec.yaml").touch()
    assert call(place, SLURM_RESTART_COUNT="2")[-1] == "--out=runs/a b-70123"
    assert not run.exists() and (place / "runs" / "a b-70123.unsaved-2" / "spec.yaml").exists()


@pytest.mark.parametrize(("requeue", "code", "again"), [(True, 143, True), (False, 143, False), (True, 0, False)])
def test_a_job_that_is_told_to_stop_saves(place: Path, requeue: bool, code: int, again: bool) -> None:
    """It waits for that. A run that was done by then does not come again."""
    program(place, "srun", WAITING)
    process = start(place, replace(JOB, requeue=requeue), CODE=str(code))
    while not (place / "started").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, (place / "told").read_text()) == (code, "saved\n"), error
    assert (place / "requeued").exists() is again
    if again:
        assert (place / "requeued").read_text() == "requeue 70123\n"


def test_a_job_that_fails_does_not_come_again(place: Path) -> None:
    call(place, replace(JOB, requeue=True), CODE="2")
    assert not (place / "requeued").exists()


def test_options(place: Path) -> None:
    job = replace(JOB, time="1-00:00:00", partition="gpu", account="me", requeue=True, extra=("--constraint=a100",))
    lines = batch_file(job).splitlines()
    assert lines[0] == "#!/bin/bash"
    options = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    assert options == [
        "--job-name=mine",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--gres=gpu:4",
        "--cpus-per-task=32",
        "--output=%x-%j.log",
        "--open-mode=append",
        "--signal=B:TERM@180",
        "--requeue",
        "--time=1-00:00:00",
        "--partition=gpu",
        "--account=me",
        "--constraint=a100",
    ]
    assert lines[1 : 1 + len(options)] == [
        f"#SBATCH {option}" for option in options
    ]  # sbatch stops reading at a command
    assert "#SBATCH --no-requeue" in batch_file(JOB)
    for each in (job, JOB):
        subprocess.run(["bash", "-n"], input=batch_file(each), text=True, check=True)
