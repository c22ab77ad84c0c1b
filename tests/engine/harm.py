"""`codetr train` in processes of its own that are hurt in every way, and what must come of it.

A `Lab` holds a tiny spec, its data and the run that nothing has happened to. The functions below do one kind of harm
each, assert what must follow, and return what was seen. Steps are counted from 1.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from ranks import SPEC, write_data
from torch import Tensor

from codetr.engine.checkpoint import read_weights
from codetr.engine.run_folder import RunFolder

STEPS, EPOCH = 12, 6
HEAD = """
heads:
  faster_rcnn: {rpn: {channels: 8, train_candidates: 50, train_proposals: 20}, roi: {hidden: 8, samples: 8}}
"""
SETTINGS = (
    "data=data",
    "base.dropout=0.1",
    "train.epochs=2",
    "train.deterministic=true",
    "train.checkpoint_every=2",
    "train.eval_every=1",
    "train.ema={decay: 0.9}",
)
TIMES = ("images_per_second", "seconds_per_step", "data_seconds", "memory_mb")
Fault = Callable[[int, dict[str, Tensor]], None]
"""Called after the forward pass of each training step with the step and its losses, in the process that trains."""


@dataclass(frozen=True)
class Seen:
    """What came of a fault. code: the exit code; negative for a signal that nothing answered."""

    fault: str
    code: int
    message: str
    outcome: str


class Training:
    """A process that runs a command line of codetr, in a group of its own.

    fresh: it starts from nothing, `python -m codetr.cli.main`. Otherwise it is forked from a process that has imported
    codetr already, which saves seconds.
    """

    def __init__(self, *arguments: str, at: Path, fault: Fault | None = None, fresh: bool = False) -> None:
        self._log = at / f"{time.monotonic_ns()}.log"
        if fresh:
            assert fault is None
            command = [sys.executable, "-m", "codetr.cli.main", *arguments]
            with self._log.open("w") as log:
                self._process: Any = subprocess.Popen(
                    command, cwd=at, stdout=log, stderr=log, start_new_session=True, env=environment()
                )
        else:
            server = multiprocessing.get_context("forkserver")
            server.set_forkserver_preload(["harm", "codetr.cli.main", "codetr.engine.session", "codetr.models.build"])
            self._process = server.Process(target=_train, args=(arguments, str(at), str(self._log), fault))
            self._process.start()
        self.pid: int = self._process.pid

    def wait(self, seconds: float = 300) -> int:
        """The exit code."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.wait(seconds)
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"still running after {seconds} s:\n{self.output}"
        return int(self._process.exitcode)

    def kill(self) -> None:
        """As `kill -9` does: this process alone, whose workers must end by themselves."""
        self._process.kill()

    @property
    def running(self) -> bool:
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll() is None
        return bool(self._process.is_alive())

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def _train(arguments: tuple[str, ...], at: str, log: str, fault: Fault | None) -> None:
    """In the forked process."""
    os.setsid()
    os.chdir(at)
    os.environ.update(environment())
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    multiprocessing.set_start_method(None, force=True)  # a child of a fork server would use one too
    sys.argv = ["codetr", *arguments]
    if fault is not None:
        _install(fault)
    from codetr.cli.main import main

    sys.exit(main(arguments))


def _install(fault: Fault) -> None:
    from codetr.models.collaborative import Collaborative

    forward, done = Collaborative.forward, 0

    def hurt(self: Collaborative, *arguments: Any) -> Any:
        nonlocal done
        found = forward(self, *arguments)
        if self.training:
            done += 1
            fault(done, found)
        return found

    Collaborative.forward = hurt  # type: ignore[method-assign, assignment]


class Lab:
    """A folder with spec and data, where trainings are hurt."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        (path / "tiny.yaml").write_text(SPEC + HEAD)
        write_data(path / "data", (1,) * 12)
        self._count = 0

    @cached_property
    def reference(self) -> Path:
        """The run that nothing happens to."""
        path, code, output = self.train("train.preflight=false")
        assert code == 0, output
        return path

    def new(self) -> str:
        self._count += 1
        return f"runs/{self._count}"

    def train(self, *settings: str, fault: Fault | None = None, out: str | None = None) -> tuple[Path, int, str]:
        """A new run until it ends: its folder, exit code and output."""
        out = out or self.new()
        process = self.start(out, *settings, fault=fault)
        return self.path / out, process.wait(), process.output

    def start(self, out: str, *settings: str, fault: Fault | None = None, fresh: bool = False) -> Training:
        line = ("train", "tiny.yaml", *SETTINGS, *settings, f"--out={out}")
        return Training(*line, at=self.path, fault=fault, fresh=fresh)

    def resume(self, out: str | Path, *settings: str, fresh: bool = False) -> tuple[int, str]:
        process = Training("train", "--resume", str(out), *settings, at=self.path, fresh=fresh)
        return process.wait(), process.output

    def goes_on(self, output: str) -> str:
        """Run the command that a message names; its output."""
        found = re.findall(r"codetr (train --resume [^\n]*\S)", output)
        assert found, output
        process = Training(*shlex.split(found[-1]), at=self.path)
        code = process.wait()
        assert code == 0, process.output
        return process.output

    def ends_alike(self, run: Path) -> None:
        """Weights, best weights, optimizer and averaged weights bit for bit; the log but for times."""
        ours, theirs = RunFolder(run), RunFolder(self.reference)
        assert ours.last.name == theirs.last.name == f"step_{STEPS:08d}"
        for mine, other in ((ours.last, theirs.last), (ours.best, theirs.best)):
            same(read_weights(mine), read_weights(other))
        same(_state(ours.last), _state(theirs.last))
        assert timeless(run) == timeless(self.reference)


def _state(checkpoint: Path) -> dict[str, Tensor]:
    return read_weights(checkpoint / "state" / "state.safetensors")


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
    assert left.keys() == right.keys() and left
    differing = [name for name in left if not torch.equal(left[name], right[name])]
    assert not differing, f"{len(differing)} of {len(left)} tensors differ, such as {differing[0]}"


def timeless(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def last_step(run: Path) -> int:
    """Of its newest checkpoint, whole by its checksums; 0 without one."""
    from codetr.engine.checkpoint import verify
    from codetr.engine.run_folder import step_of

    if not RunFolder(run).steps:
        return 0
    verify(RunFolder(run).last)
    return step_of(RunFolder(run).last)


def message(output: str) -> str:
    """The error, which ends it."""
    found = [match.start() for match in re.finditer("^error: ", output, re.MULTILINE)]
    assert "Traceback" not in output and len(found) == 1, output
    return output[found[0] :].strip()


# -- kill -9 ---------------------------------------------------------------------------------------------------------


def killed(lab: Lab, *, moment: float, workers: int, fresh: bool = False) -> Seen:
    """So many seconds after the run's folder was made, or if `fresh` after the process was; resumed until it ends.

    Earlier, if the run has ended by then: a kill that hits nothing is none.
    """
    out, settings = lab.new(), (f"data.workers={workers}", f"train.preflight={fresh}")
    run = lab.path / out
    process = lab.start(out, *settings, fresh=fresh)
    if not fresh:
        _until_made(run)
    time.sleep(moment)
    process.kill()
    code = process.wait()
    if code == 0:  # it was faster than expected, and has ended by itself
        return killed(lab, moment=0.7 * moment, workers=workers, fresh=fresh)
    assert code == -signal.SIGKILL, process.output
    phase = _phase(run)
    saved = last_step(run)
    if (run / "spec.yaml").is_file():
        ended, output = lab.resume(out, fresh=fresh)
    else:  # the command has not come so far: it is given again
        again = lab.start(out, *settings, fresh=fresh)
        ended, output = again.wait(), again.output
    assert ended == 0, output
    assert not saved or f"after step {saved}" in output, output
    lab.ends_alike(run)
    return Seen(f"kill -9 {phase}", code, "", f"killed after {moment:.3f} s; resumed, identical")


def _until_made(run: Path) -> None:
    end = time.monotonic() + 300
    while not (run / "spec.yaml").is_file():
        assert time.monotonic() < end
        time.sleep(0.005)


def _phase(run: Path) -> str:
    """What a run was at when it was killed."""
    if not (run / "metrics.jsonl").is_file():
        return "before step 1"
    if list(run.glob("checkpoints/.*")):
        return "while saving"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().split("\n")[:-1]]
    if lines and lines[-1]["kind"] == "train" and lines[-1]["step"] % EPOCH == 0:
        return "while evaluating"
    return "between steps"


def moments(lab: Lab, count: int, *, seed: int, fresh: bool = False) -> list[float]:
    """Random times to kill at, one in each of so many equal parts of a run as long as one is now."""
    out = lab.new()
    process = lab.start(out, "data.workers=2", f"train.preflight={fresh}", fresh=fresh)
    start = time.monotonic()
    if not fresh:
        _until_made(lab.path / out)
        start = time.monotonic()
    assert process.wait() == 0, process.output
    length = time.monotonic() - start
    draw = random.Random(seed)
    return [length * (index + draw.random()) / count for index in range(count)]


# -- faults in a step ------------------------------------------------------------------------------------------------


@dataclass
class Poison:
    """A loss term that is not a number."""

    at: int
    term: str

    def __call__(self, step: int, losses: dict[str, Tensor]) -> None:
        if step == self.at:
            losses[self.term] = losses[self.term] * float("nan")


@dataclass
class Send:
    """A signal to the process that trains, or as the terminal does to its whole group."""

    at: int
    number: int
    group: bool = False

    def __call__(self, step: int, losses: dict[str, Tensor]) -> None:
        if step == self.at:
            (os.killpg if self.group else os.kill)(os.getpid(), self.number)


@dataclass
class KillWorker:
    """One of the processes that load images dies."""

    at: int

    def __call__(self, step: int, losses: dict[str, Tensor]) -> None:
        if step == self.at:
            os.kill(min(_children(os.getpid())), signal.SIGKILL)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@dataclass
class Damage:
    """Images are cut short."""

    at: int
    files: tuple[str, ...]

    def __call__(self, step: int, losses: dict[str, Tensor]) -> None:
        if step == self.at:
            for file in self.files:
                os.truncate(file, os.path.getsize(file) // 2)


@dataclass
class Fill:
    """A disk without any room from one step on; until=None: for ever."""

    at: int
    until: int | None
    disk: str

    def __call__(self, step: int, losses: dict[str, Tensor]) -> None:
        ballast = Path(self.disk) / "ballast"
        if step == self.at:
            fill(ballast)
        elif step == self.until:
            ballast.unlink()


def fill(ballast: Path) -> None:
    size = 2**16
    with ballast.open("wb", buffering=0) as file:
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2


@dataclass
class LimitFiles:
    """No file may grow beyond so many bytes: what a full disk is where none can be mounted; the soft limit ends at
    step `until`."""

    at: int
    until: int | None
    size: int

    def __call__(self, step: int, losses: dict[str, Tensor]) -> None:
        import resource

        if step == self.at:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))
        elif step == self.until:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def poisoned(lab: Lab) -> Seen:
    """A loss term turns into NaN at step 5; step 4 was saved."""
    term = next(name for name in timeless(lab.reference)[0]["losses"] if name.startswith("faster_rcnn"))
    run, code, output = lab.train("train.preflight=false", fault=Poison(5, term))
    said = message(output)
    assert code == 2 and "step 5: training stopped" in said and f"{term} = nan" in said
    assert len(re.findall(r"data/images/\d+\.png|\d+\.png", said)) >= 2, said
    assert last_step(run) == 4
    code, after = lab.resume(run)
    assert code == 0 and "after step 4" in after, after
    lab.ends_alike(run)
    return Seen("NaN in one loss term", 2, said, "nothing saved after step 4; resumed, identical")


def stopped(lab: Lab, number: signal.Signals) -> Seen:
    """SIGTERM to the process, Ctrl-C to its group; with workers, in the middle of an epoch."""
    fault = Send(9, number, group=number == signal.SIGINT)
    run, code, output = lab.train("train.preflight=false", "data.workers=2", fault=fault)
    assert "Traceback" not in output and code == 128 + number, f"exit code {code}:\n{output}"
    assert last_step(run) == 9
    after = lab.goes_on(output)
    assert "after step 9" in after
    lab.ends_alike(run)
    told = next(line for line in output.splitlines() if line.startswith("stopped"))
    return Seen("Ctrl-C" if number == signal.SIGINT else "SIGTERM", code, told, "saved at once; resumed, identical")


def worker_killed(lab: Lab) -> Seen:
    run, code, output = lab.train("train.preflight=false", "data.workers=2", fault=KillWorker(9))
    said = message(output)
    assert code == 2 and "a process that loads images was killed" in said and "/dev/shm" in said, output
    saved = last_step(run)
    assert saved >= 9 and f"step {saved} was saved" in output, output
    assert f"after step {saved}" in lab.goes_on(output)
    lab.ends_alike(run)
    return Seen("a loader's process killed", 2, said, "last step saved; resumed, identical")


def image_damaged(lab: Lab) -> Seen:
    """All images, in the middle of the second epoch, so that the next one is among them."""
    images = sorted((lab.path / "data" / "images").iterdir())
    good = {path: path.read_bytes() for path in images}
    try:
        fault = Damage(9, tuple(map(str, images)))
        run, code, output = lab.train("train.preflight=false", fault=fault)
        said = message(output)
        assert code == 2 and ".png" in said and "on_bad_image" in said, output
        saved = last_step(run)
        assert saved == 9 and "step 9 was saved" in output, output
        code, again = lab.resume(run)
        assert code == 2 and message(again)
    finally:
        for path, content in good.items():
            path.write_bytes(content)
    assert "after step 9" in lab.goes_on(output)
    lab.ends_alike(run)
    return Seen("image damaged in an epoch", 2, said, "last step saved; image repaired, resumed, identical")


def image_skipped(lab: Lab) -> Seen:
    """One image, at the end of the first epoch: the second one and the evaluations meet it."""
    image = lab.path / "data" / "images" / "3.png"
    good = image.read_bytes()
    try:
        settings = ("train.preflight=false", "data.on_bad_image=skip")
        run, code, output = lab.train(*settings, fault=Damage(6, (str(image),)))
    finally:
        image.write_bytes(good)
    assert code == 0 and last_step(run) == STEPS, output
    said = next(line for line in output.splitlines() if line.startswith("warning: left out"))
    assert "3.png" in said
    return Seen("image damaged, data.on_bad_image=skip", 0, said, "left out, training goes on")


# -- checkpoints -----------------------------------------------------------------------------------------------------


def checkpoint_damaged(lab: Lab, *, cut: bool) -> Seen:
    """The newest one, cut short or with one bit flipped: refused, and the one before it offered."""
    run, code, output = lab.train("train.preflight=false", fault=Send(8, signal.SIGTERM))
    assert code == 143 and [path.name[-2:] for path in RunFolder(run).steps] == ["06", "08"], output
    file = RunFolder(run).last / "state" / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content[: len(content) // 2] if cut else content)
    code, output = lab.resume(run)
    said = message(output)
    assert code == 2 and "step_00000008" in said and "step_00000006 is whole" in said, output
    after = lab.goes_on(output)
    assert "after step 6" in after
    lab.ends_alike(run)
    kind = "cut short" if cut else "one bit flipped"
    return Seen(f"newest checkpoint {kind}", 2, said, "refused; command of the message run, identical")


# -- disk full -------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(at: Path, size: str = "4m") -> Iterator[Path | None]:
    """A tmpfs, or None where nobody may mount one (it takes root)."""
    at.mkdir(parents=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(at)], capture_output=True)
    if done.returncode:
        yield None
        return
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def disk_full(lab: Lab, disk: Path, *, for_ever: bool) -> Seen:
    """From step 3 on. Either until step 5, or for longer than the run."""
    out = disk / "run"
    fault = Fill(3, None if for_ever else 5, str(disk))
    _, code, output = lab.train("train.preflight=false", out=str(out), fault=fault)
    return _after_full(lab, out, code, output, disk / "ballast")


def files_limited(lab: Lab, *, for_ever: bool) -> Seen:
    out = lab.new()
    fault = LimitFiles(3, None if for_ever else 5, 2**15)
    run, code, output = lab.train("train.preflight=false", out=out, fault=fault)
    return _after_full(lab, run, code, output, None)


def _after_full(lab: Lab, run: Path, code: int, output: str, ballast: Path | None) -> Seen:
    warnings = [line for line in output.splitlines() if line.startswith("warning:") and "written" in line]
    assert warnings and "step 4 could not be written" in output and "step_00000002 is whole" in output, output
    if code == 0:
        lab.ends_alike(run)
        return Seen("disk full for a while", 0, warnings[0], "training went on; next save worked; identical")
    said = message(output)
    assert code == 2 and "could not be written" in said, output
    saved = last_step(run)
    if ballast is not None:
        ballast.unlink()
    code, after = lab.resume(run)
    assert code == 0 and f"after step {saved}" in after, after
    lab.ends_alike(run)
    return Seen("disk full for ever", 2, said, f"step {saved} stayed whole; room made, resumed, identical")


# -- ranks -----------------------------------------------------------------------------------------------------------


def rank_killed(lab: Lab) -> Seen:
    """Rank 1 of 2, after some steps, under `--gpus 2 --max-restarts 1`; compared with two ranks left in peace."""
    line = ["train", "tiny.yaml", *SETTINGS, "train.preflight=false", "--gpus=2", "--max-restarts=1"]
    peace, hurt = lab.new(), lab.new()
    process = Training(*line, f"--out={peace}", at=lab.path, fresh=True)
    assert process.wait() == 0, process.output
    process = Training(*line, f"--out={hurt}", at=lab.path, fresh=True)
    end = time.monotonic() + 300
    while not RunFolder(lab.path / hurt).steps:
        assert time.monotonic() < end and process.running, process.output
        time.sleep(0.01)
    os.kill(_rank(process.pid, 1), signal.SIGKILL)
    code, output = process.wait(), process.output
    assert code == 0 and re.search(r"after step \d+", output), f"exit code {code}:\n{output}"
    mine, other = RunFolder(lab.path / hurt), RunFolder(lab.path / peace)
    assert mine.last.name == other.last.name == f"step_{STEPS:08d}"
    same(read_weights(mine.last), read_weights(other.last))
    same(_state(mine.last), _state(other.last))
    assert timeless(mine.path) == timeless(other.path)
    told = next((line for line in output.splitlines() if "a rank was killed" in line), "")
    assert told, output
    return Seen("rank killed", code, told, "went on by itself, identical")


def _rank(launcher: int, rank: int) -> int:
    """The process of a rank among the launcher's children."""
    for child in _children(launcher):
        if f"\0RANK={rank}\0".encode() in b"\0" + Path(f"/proc/{child}/environ").read_bytes():
            return child
    raise AssertionError(f"no rank {rank} below process {launcher}")
