"""The batch file with which SLURM runs a training on several machines, and again after it was cut off."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

NOTICE = 180
"""Seconds before the end of a job's time at which it is told to save."""


@dataclass(frozen=True)
class Job:
    """spec, overrides: of `codetr train`. run: the run's folder, $SLURM_JOB_ID is added. gpus: of each machine.

    cpus: of each machine. time, partition, account: None for the cluster's own. requeue: go on in a job of the same
    number when the time is up or the machines are taken away. max_restarts: after a rank has died. extra: lines for
    `#SBATCH`, such as `--constraint=a100`.
    """

    name: str
    spec: str
    overrides: tuple[str, ...]
    run: str
    nodes: int
    gpus: int
    cpus: int
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    requeue: bool = False
    max_restarts: int = 3
    extra: tuple[str, ...] = ()


def batch_file(job: Job) -> str:
    """The text of a file for `sbatch`: one task on each machine, which starts a rank for each of its GPUs."""
    return _TEMPLATE.format(
        options="\n".join(f"#SBATCH {option}" for option in _options(job)),
        notice=NOTICE,
        run=shlex.quote(job.run),
        python=shlex.quote(sys.executable),
        arguments=shlex.join([job.spec, *job.overrides]),
        ranks=shlex.join(_ranks(job)),
        requeue=_REQUEUE if job.requeue else "",
    )


def _options(job: Job) -> list[str]:
    options = [
        f"--job-name={job.name}",
        f"--nodes={job.nodes}",
        "--ntasks-per-node=1",
        f"--gres=gpu:{job.gpus}",
        f"--cpus-per-task={job.cpus}",
        "--output=%x-%j.log",
        "--open-mode=append",
        f"--signal=B:TERM@{NOTICE}",
        "--requeue" if job.requeue else "--no-requeue",
    ]
    for name in ("time", "partition", "account"):
        value = getattr(job, name)
        options += [f"--{name}={value}"] if value is not None else []
    return [*options, *job.extra]


def _ranks(job: Job) -> Sequence[str]:
    """Where several machines meet is known in the job only."""
    options = ["--gpus", str(job.gpus), "--max-restarts", str(job.max_restarts)]
    return [*options, "--nodes", str(job.nodes)] if job.nodes > 1 else options


_REQUEUE = """
# Stopped before it was done: the same job comes again, and goes on.
if [ -n "$stopped" ] && [ "$code" -ne 0 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
"""

_TEMPLATE = """#!/bin/bash
{options}
# Submit this file from the folder that its relative paths start at.
set -u

run={run}-"$SLURM_JOB_ID"
where=()
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  where=(--rendezvous "$first:$((20000 + SLURM_JOB_ID % 10000))")
fi

# A job that SLURM starts again goes on from its last checkpoint; before the first one it starts anew.
if compgen -G "$run/checkpoints/*" > /dev/null; then
  task=(--resume="$run")
else
  if [ -e "$run" ]; then mv "$run" "$run.unsaved-${{SLURM_RESTART_COUNT:-0}}"; fi
  task=(--out="$run")
fi

# SLURM signals this shell {notice} seconds before the end: srun passes it on, and the ranks save.
stopped=
trap 'stopped=yes; kill -TERM $(jobs -p) 2> /dev/null' TERM INT

export SRUN_CPUS_PER_TASK="${{SLURM_CPUS_PER_TASK:-1}}"  # srun does not take it from sbatch by itself
srun --ntasks-per-node=1 --kill-on-bad-exit=1 \\
  {python} -m codetr.cli.main train {arguments} {ranks} ${{where[@]+"${{where[@]}}"}} "${{task[@]}}" &
step=$!
wait "$step"
code=$?
while kill -0 "$step" 2> /dev/null; do  # a signal ends `wait`, not the step
  wait "$step"
  code=$?
done
{requeue}exit "$code"
"""
