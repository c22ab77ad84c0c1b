"""Starts the ranks of a run on this machine through torch's elastic agent, and says in one message how they ended."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codetr.errors import UserError

OPTIONS = "CODETR_LAUNCH_OPTIONS"
"""Variable of the environment of ranks that `codetr train --gpus` started: the options to start them so again."""
SAVING = 300
"""Seconds that ranks have to finish their step and save once they are told to stop."""


@dataclass(frozen=True)
class Launch:
    """How to launch a run on this machine.

    gpus: ranks on this machine. nodes: machines. node_rank: the number of this one. rendezvous: HOST:PORT of the first
    one, the same everywhere. max_restarts: how often all ranks are started again after one has died.
    """

    gpus: int
    nodes: int = 1
    node_rank: int | None = None
    rendezvous: str | None = None
    max_restarts: int = 0

    def options(self) -> str:
        """As on the command line; without the number of the machine, which is another one everywhere."""
        given = {"gpus": self.gpus, "nodes": self.nodes if self.nodes > 1 else None, "rendezvous": self.rendezvous}
        given["max-restarts"] = self.max_restarts or None
        return " ".join(f"--{name} {shlex.quote(str(value))}" for name, value in given.items() if value is not None)


def check_launch(launch: Launch, *, device: str) -> None:
    """device: `train.device` of the spec. Raises: UserError if the ranks cannot be started so."""
    if launch.nodes > 1 and launch.rendezvous is None:
        raise UserError(
            f"--nodes {launch.nodes}: say where the machines meet, with the same --rendezvous HOST:PORT on each of "
            "them: name or address of the first one, and a free port of it, such as 29500."
        )
    if launch.nodes == 1 and launch.rendezvous is not None:
        raise UserError("--rendezvous is for several machines: say how many with --nodes, or leave it away.")
    if launch.node_rank is not None and not launch.node_rank < launch.nodes:
        raise UserError(f"--node-rank {launch.node_rank}: the {launch.nodes} machines count from 0.")
    if launch.rendezvous is not None and not launch.rendezvous.rpartition(":")[2].isdigit():
        raise UserError(f"--rendezvous {launch.rendezvous}: no port. Write HOST:PORT, such as node1:29500.")
    if device == "cpu":
        return
    import torch

    count = torch.cuda.device_count()
    if count == 0:
        raise UserError(
            f"--gpus {launch.gpus}: PyTorch sees no GPU here. With train.device=cpu, --gpus {launch.gpus} starts as "
            "many processes on the CPU."
        )
    if launch.gpus > count:
        raise UserError(f"--gpus {launch.gpus}: PyTorch sees {count} here. Use --gpus {count}, or fewer.")


def check_inside(launch: Launch) -> None:
    """For a rank that torchrun started. Raises: UserError if the command line asks for another number of ranks."""
    started, asked = int(os.environ["WORLD_SIZE"]), launch.gpus * launch.nodes
    if started != asked:
        raise UserError(
            f"--gpus {launch.gpus} with --nodes {launch.nodes} asks for {asked} ranks, but torchrun started {started}. "
            "Leave these options away under torchrun, or start codetr without it."
        )


def launch_ranks(launch: Launch, command: Sequence[str], *, folder: Path | None = None) -> int:
    """Run `codetr COMMAND` as so many ranks, and wait for them. SIGINT and SIGTERM go on to the ranks, which save.

    folder: the run's, if it is known and not in runs/. Returns the exit code: 0, 128 and a signal's number, or 1 after
    another exception of a rank, which is printed. Raises: UserError as a rank raised it.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    with _environment(launch), tempfile.TemporaryDirectory(prefix="codetr-") as logs:
        line = [*_agent_options(launch), "--log-dir", logs, "-m", "codetr.cli.main", *command]
        try:
            torchrun.run(torchrun.parse_args(line))
        except ChildFailedError as error:
            codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
            return _explain(_records(Path(logs)), codes, going_on=_going_on(folder))
        except SignalException as error:
            records = _records(Path(logs))
            return _explain(records, {}, going_on=_going_on(folder)) if records else 128 + int(error.sigval)
    return 0


def record_failure(error: Exception) -> bool:
    """In a rank: leave an exception to the launcher, which shows one for all ranks. False if `torchrun` is that."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if OPTIONS not in os.environ or path is None:
        return False
    stack = "".join(traceback.format_exception(error))
    record = {
        # The form that the agent reads.
        "message": {"message": str(error), "extraInfo": {"py_callstack": stack, "timestamp": str(int(time.time()))}},
        "is_user_error": isinstance(error, UserError),
        "rank": int(os.environ["RANK"]),
        "time": time.time(),
    }
    Path(path).write_text(json.dumps(record), encoding="utf-8")
    return True


def resume_command(run: Path) -> str:
    """The command that goes on with a run, launched as this process was."""
    options = os.environ.get(OPTIONS)
    return f"codetr train --resume {shlex.quote(str(run))}" + (f" {options}" if options else "")


@contextmanager
def _environment(launch: Launch) -> Iterator[None]:
    """What the ranks inherit; and the agent's own log, which tells of each failure once more, stays silent."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    threads = max(1, cores // launch.gpus)
    changes = {OPTIONS: launch.options(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    if launch.nodes > 1:  # or ranks that are started again meet those before them (engine.distributed)
        changes["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _agent_options(launch: Launch) -> list[str]:
    from torch.distributed.launcher.api import LaunchConfig

    options = [f"--nproc-per-node={launch.gpus}", f"--max-restarts={launch.max_restarts}"]
    if "shutdown_timeout" in {field.name for field in dataclasses.fields(LaunchConfig)}:  # else 30 seconds
        options.append(f"--shutdown-timeout={SAVING}")
    if launch.nodes == 1:
        return [*options, "--standalone"]
    assert launch.rendezvous is not None
    options += [f"--nnodes={launch.nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={launch.rendezvous}"]
    options.append(f"--rdzv-id={launch.rendezvous}")
    number = os.environ.get("SLURM_NODEID") if launch.node_rank is None else str(launch.node_rank)
    if number is not None:  # else the machine whose name is that of the endpoint opens it
        options.append(f"--rdzv-conf=is_host={int(number == '0')}")
    return options


def _records(logs: Path) -> list[Mapping[str, Any]]:
    """What the ranks of the last attempt left, the first failure first. The agent knows of those that it saw end."""
    files = list(logs.rglob("error.json"))
    attempts = {file: int(file.parts[-3].rpartition("_")[2]) for file in files}  # .../attempt_N/RANK/error.json
    last = max(attempts.values(), default=0)
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files if attempts[file] == last]
    return sorted((record for record in records if "is_user_error" in record), key=lambda record: record["time"])


def _explain(records: Sequence[Mapping[str, Any]], codes: Mapping[int, int], *, going_on: str) -> int:
    """The first cause in a few words; the others are what it did to the other ranks. Returns the exit code.

    codes: of the ranks that were seen to fail; negative for a signal.
    """
    for record in records:
        if record["is_user_error"]:
            raise UserError(record["message"]["message"])
    killed = {rank: -code for rank, code in codes.items() if code < 0 and -code != signal.SIGTERM}
    if killed:
        rank, number = min(killed.items())
        cause = " (the system does so when memory runs out)" if number == signal.SIGKILL else ""
        _say(f"rank {rank} was ended by {signal.Signals(number).name}{cause}; the other ranks were stopped.{going_on}")
        return 128 + number
    if records:
        stack = records[0]["message"]["extraInfo"]["py_callstack"].rstrip()
        _say(f"rank {records[0]['rank']} failed:\n{stack}\n{going_on.strip()}")
        return 1
    return next((128 - code if code < 0 else code for code in codes.values()), 1)


def _going_on(folder: Path | None) -> str:
    from codetr.engine.elastic import run_of_agent

    run = run_of_agent(os.getpid(), folder=folder)
    if run is None or not any((run.path / "checkpoints").glob("*")):
        return ""
    return f" Go on from the last checkpoint: {resume_command(run.path)}"


def _say(text: str) -> None:
    print(f"error: {text.rstrip()}", file=sys.stderr, flush=True)
