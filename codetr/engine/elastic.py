"""Restarts by an elastic agent such as torchrun's: the ranks that it starts again go on with the run that was cut off.

Their command line still asks for a new run. So a run's folder keeps which agents launched it, in launch.json: an agent
outlives the ranks, and is known by its machine, process number and time of start.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from codetr.engine import run_folder
from codetr.engine.distributed import World
from codetr.engine.files import write_text
from codetr.engine.run_folder import RunFolder

LAUNCH = "launch.json"


def is_launched() -> bool:
    """Whether an elastic agent started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def process_identity(pid: int) -> str:
    """A process of this machine as no other one is called: its number may come again, with another time of start."""
    return f"{socket.gethostname()}/{pid}/{_start(pid)}"


def note_launch(folder: RunFolder, ranks: World) -> None:
    """Keep in a run's folder, made if need be, which agents launched it, if any did. To be called by every rank."""
    if not is_launched():
        return
    agents, processes = zip(*ranks.gather(_identities()), strict=True)
    if ranks.leads:
        folder.path.mkdir(parents=True, exist_ok=True)
        noted = {"agents": sorted(set(agents)), "processes": processes, "time": time.time()}
        write_text(folder.path / LAUNCH, json.dumps(noted, indent=2) + "\n")


def restarted_run(ranks: World, *, name: str, out: Path | None) -> RunFolder | None:
    """The run that the agents of these ranks launched before, or None. To be called by every rank.

    name, out: of the new run that the command line asks for. The run may have no checkpoint yet: then it starts again,
    in the same folder. Ranks that one process starts after another are no restart.
    """
    if not is_launched():
        return None
    agents, processes = zip(*ranks.gather(_identities()), strict=True)
    folders = [out] if out is not None else run_folder.RUNS.glob(f"{name}*")
    found = _launched(folders, set(agents), no_process_of=set(processes)) if ranks.leads else None
    path: Path | None = ranks.from_leader(found)
    return None if path is None else RunFolder(path)


def restart_line() -> str:
    """What a restart means, for those who look on."""
    count, most = (os.environ.get(f"TORCHELASTIC_{name}", "?") for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return f"a rank was killed or failed, so that all ranks were started again (restart {count} of {most})."


def run_of_agent(pid: int, *, folder: Path | None = None) -> RunFolder | None:
    """The run that an agent on this machine launched. folder: where it is if not in runs/."""
    folders = run_folder.RUNS.glob("*") if folder is None else [folder]
    path = _launched(folders, {process_identity(pid)}, no_process_of=set())
    return None if path is None else RunFolder(path)


def _identities() -> tuple[str, str]:
    """Of the agent, and of this process."""
    return process_identity(os.getppid()), process_identity(os.getpid())


def _launched(folders: Iterable[Path], agents: set[str], *, no_process_of: set[str]) -> Path | None:
    """The newest run that one of these agents launched, with other processes than these."""
    newest: tuple[float, Path] | None = None
    for folder in folders:
        if not (folder / LAUNCH).is_file():
            continue
        noted = json.loads((folder / LAUNCH).read_text(encoding="utf-8"))
        ours = not agents.isdisjoint(noted["agents"]) and no_process_of.isdisjoint(noted["processes"])
        if ours and (newest is None or noted["time"] > newest[0]):
            newest = noted["time"], folder
    return newest[1] if newest else None


def _start(pid: int) -> str:
    """Time of start of a process in ticks since the machine's; empty where the system does not say it in /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]  # field 22 of proc(5); the second field, in brackets, may hold blanks
