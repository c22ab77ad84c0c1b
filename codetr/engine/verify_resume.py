"""`codetr train --verify-resume`: a run that is killed and resumed ends with the same bits as one that never stopped.

Claimed for every run, and proved here on the user's own spec, data and machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from rich.console import Console
from torch import Tensor

from codetr.engine.checkpoint import STATE, read_weights
from codetr.engine.run_folder import RunFolder
from codetr.errors import UserError

STEPS = 10
SETTINGS = ("train.deterministic=true", "train.eval_every=null", "train.keep_last=1000", "train.preflight=false")


@dataclass(frozen=True)
class Comparison:
    """tensors: how many were compared. differing: the names of those that differ, or are on one side only."""

    tensors: int
    differing: tuple[str, ...]


def verify_resume(arguments: Sequence[str], *, steps: int | None, console: Console) -> bool:
    """Train for some steps straight; train again, kill that run without warning, resume it; compare all that is saved.

    arguments: of `codetr train`, the spec first. steps: to compare after; 10 unless given. Returns whether all bits are
    the same, and prints what was found.
    Raises: UserError if a training fails.
    """
    steps = STEPS if steps is None else steps
    if steps < 2:
        raise UserError(
            f"--max-steps {steps}: to be interrupted a run needs 2 steps at least; leave it away for {STEPS}."
        )
    kill = steps // 2
    with tempfile.TemporaryDirectory(prefix="codetr-verify-") as place:
        straight, broken = RunFolder(Path(place) / "straight"), RunFolder(Path(place) / "broken")
        say(console, f"training {steps} steps without a stop")
        train([*arguments, *SETTINGS, f"--out={straight.path}", f"--max-steps={steps}"])
        say(console, f"training again, to be killed after step {kill}")
        done = kill_after(
            kill, [*arguments, *SETTINGS, f"train.checkpoint_every={kill}", f"--out={broken.path}"], broken
        )
        say(console, f"killed after step {done}; resuming from step {kill}")
        options = [argument for argument in arguments[1:] if argument.startswith("--")]
        train([f"--resume={broken.checkpoint(kill)}", f"--max-steps={steps}", *options])
        found = compare(straight.checkpoint(steps), broken.checkpoint(steps))
    if found.differing:
        names = "\n  ".join(found.differing[:8])
        say(console, f"NOT identical: {len(found.differing)} of {found.tensors} tensors differ:\n  {names}")
        return False
    say(console, f"identical: all {found.tensors} tensors of weights and optimizer, bit for bit, after step {steps}")
    return True


def say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def train(arguments: Sequence[str]) -> None:
    """`codetr train` in a process of its own. Raises: UserError with its last words if it fails."""
    with started(arguments) as process:
        words, _ = process.communicate()
        check(process, words)


def kill_after(step: int, arguments: Sequence[str], run: RunFolder) -> int:
    """Kill a training and all of its processes once a step is saved; returns the newest step that is."""
    with started(arguments) as process:
        while not run.checkpoint(step).is_dir():
            if process.poll() is not None:
                check(process, process.communicate()[0])
                raise UserError(f"the training ended by itself before step {step} was saved: give it more train.epochs")
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    return int(run.last.name.rpartition("_")[2])


@contextmanager
def started(arguments: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Ended with all of its processes if the block ends before it does."""
    command = [sys.executable, "-m", "codetr.cli.main", "train", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def check(process: subprocess.Popen[str], words: str) -> None:
    if process.returncode:
        last = "\n".join(words.strip().splitlines()[-5:])
        raise UserError(f"the training that is to be verified failed (exit code {process.returncode}):\n{last}")


def compare(one: Path, other: Path) -> Comparison:
    """Two checkpoints, tensor by tensor."""
    left, right = _tensors(one), _tensors(other)
    names = sorted(left.keys() | right.keys())
    same = {name for name in left.keys() & right.keys() if _same_bits(left[name], right[name])}
    return Comparison(len(names), tuple(name for name in names if name not in same))


def _tensors(checkpoint: Path) -> dict[str, Tensor]:
    found = read_weights(checkpoint)
    for file in sorted((checkpoint / STATE).iterdir()):
        found |= {f"{file.stem}: {name}": tensor for name, tensor in safetensors.torch.load_file(file).items()}
    return found


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one.contiguous().flatten().view(torch.uint8), other.contiguous().flatten().view(torch.uint8))
