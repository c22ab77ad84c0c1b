"""Where a run keeps its spec, environment, command, metrics and checkpoints."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from codetr.engine.files import recovered_folder, write_text
from codetr.errors import UserError

RUNS = Path("runs")
STEP = "step_"
PACKAGES = ("codetr", "torch", "torchvision", "timm", "triton", "numpy", "scipy", "pycocotools", "hotcoco", "pydantic")


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run."""

    path: Path

    @property
    def spec(self) -> Path:
        return self.path / "spec.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def steps(self) -> list[Path]:
        """Checkpoints from which the run can go on, the newest last."""
        found = (folder for folder in self.path.glob(f"checkpoints/{STEP}*") if folder.name[len(STEP) :].isdigit())
        return sorted(found, key=step_of)

    @property
    def last(self) -> Path:
        """The newest of them, or a place where nothing is."""
        return self.steps[-1] if self.steps else self.path / "checkpoints" / "last"

    @property
    def averaged(self) -> Path:
        return recovered_folder(self.path / "checkpoints" / "averaged")

    @property
    def best(self) -> Path:
        return recovered_folder(self.path / "checkpoints" / "best")

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint after a step lies."""
        return self.path / "checkpoints" / f"{STEP}{step:08d}"

    def describe(self, *, spec: str, command: Sequence[str]) -> None:
        """Make the folder, write spec.yaml, environment.json and command.txt; a resumed run appends its command.

        Raises: UserError if the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.spec, spec)  # first: with it the folder is a run, and without it as good as empty
            (self.path / "checkpoints").mkdir(exist_ok=True)
        except OSError as error:
            hint = "name another folder with --out"
            raise UserError(f"{self.path}: the run's folder cannot be made ({error.strerror}); {hint}") from error
        write_text(self.path / "environment.json", json.dumps(environment(), indent=2) + "\n")
        with (self.path / "command.txt").open("a", encoding="utf-8") as file:
            file.write(shlex.join(command) + "\n")


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint is named after."""
    return int(checkpoint.name[len(STEP) :])


def new_run(name: str, *, out: Path | None = None) -> RunFolder:
    """A folder for a new run, not made yet: `out`, or runs/<name>, or runs/<name>-2 and so on if that is taken.

    Raises: UserError if `out` holds something already.
    """
    if out is None:
        taken = [folder.name for folder in RUNS.glob(f"{name}*")]
        number = next(n for n in range(1, len(taken) + 2) if _numbered(name, n) not in taken)
        out = RUNS / _numbered(name, number)
    elif out.exists() and (not out.is_dir() or any(not entry.name.startswith(".") for entry in out.iterdir())):
        raise UserError(
            f"--out {out}: there is something here already. Name another folder, or continue the run in it: "
            f"codetr train --resume {out}"
        )
    return RunFolder(out)


def find_run(path: Path | None = None, *, name: str | None = None) -> RunFolder:
    """The run in a folder; without one, the newest run in runs/, of the spec called `name` if that is given.

    Raises: UserError if there is none.
    """
    if path is not None:
        if (path / "spec.yaml").is_file():
            return RunFolder(path)
        raise UserError(f"{path}: this is no run: it has no spec.yaml. {_known_runs()}")
    runs = [folder for folder in _all_runs() if name is None or _is_run_of(folder.name, name)]
    if not runs:
        which = "run" if name is None else f"run of {name!r}"
        raise UserError(f"{RUNS}/: no {which} found. Start one: codetr train SPEC data=DIR. {_known_runs()}")
    return RunFolder(runs[0])


def run_and_checkpoint(path: Path) -> tuple[RunFolder, Path | None]:
    """The run in a folder, or the run of one of its checkpoints/step_*, and that checkpoint.

    Raises: UserError if it is neither.
    """
    run = RunFolder(path.parent.parent)
    if path in run.steps and run.spec.is_file():
        return run, path
    return find_run(path), None


def find_checkpoint(path: Path | None = None) -> Path:
    """A checkpoint folder or a .safetensors file.

    path: one of these, or a run (its best checkpoint, else its last), or None for the newest run.
    Raises: UserError if there is none.
    """
    if path is not None and (path.is_file() or (path / "model.safetensors").is_file()):
        return path
    if path is not None and not path.exists():
        raise UserError(f"{path}: there is no such run or checkpoint. {_known_runs()}")
    run = find_run(path)
    for folder in (run.best, run.last):
        if folder.is_dir():
            return folder
    raise UserError(f"{run.path}: the run has no checkpoint yet. Train it for at least one epoch.")


def environment() -> dict[str, object]:
    """Versions of everything that a result depends on."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpu": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the checkout that the package is imported from, if it is one."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _all_runs() -> list[Path]:
    """Runs in runs/, the newest first."""
    folders = [file.parent for file in RUNS.glob("*/spec.yaml")]
    return sorted(folders, key=_touched, reverse=True)


def _touched(run: Path) -> float:
    files = (run / "spec.yaml", run / "metrics.jsonl", run / "checkpoints")
    return max(file.stat().st_mtime for file in files if file.exists())


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _is_run_of(folder: str, name: str) -> bool:
    return folder == name or (folder.startswith(f"{name}-") and folder[len(name) + 1 :].isdigit())


def _known_runs() -> str:
    runs = [str(folder) for folder in _all_runs()[:5]]
    return f"Newest runs: {', '.join(runs)}." if runs else f"There are no runs in {RUNS}/ yet."
