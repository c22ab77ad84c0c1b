"""The checks run in a process of their own, which may die: a broken library ends a process without an exception.

The process writes a line of JSON when a check begins and one for each finding. If it dies, or a check takes too long,
that is the finding of the check it was at, and another process does the rest.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import IO, Any

from codetr.doctor.checks import run_check
from codetr.doctor.findings import EXPLAIN, Finding

PATIENCE = 300.0
"""Seconds for one check: on a GPU, kernels are compiled the first time."""

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from codetr.doctor.examination import main; main()"
)


def examine(
    names: Sequence[str], *, begun: Callable[[str], None] = lambda name: None, patience: float = PATIENCE
) -> Iterator[Finding]:
    """Run checks, of `CHECKS`, and yield what they find. begun: told the name of each check when it starts."""
    waiting = list(names)
    while waiting:
        current: str | None = None
        with tempfile.TemporaryFile(mode="w+", errors="replace") as complaints:
            child = _start(waiting, complaints)
            with _Watch(child, patience) as watch:
                for event in _events(child):
                    watch.restart()
                    if "begun" in event:
                        current = event["begun"]
                        waiting.remove(current)
                        begun(current)
                    elif "done" in event:
                        current = None
                    else:
                        yield Finding(**event)
            code = child.wait()
            if current is None and not waiting:
                return
            complaints.seek(0)
            text = complaints.read()
        if current is None:  # it died before it began, or between two checks
            current = waiting.pop(0)
        yield died(current, code, text, late=watch.bitten, patience=patience)


def died(check: str, code: int, text: str, *, late: bool, patience: float) -> Finding:
    """code: how the process ended, negative for a signal. text: what it wrote to its standard error."""
    if late:
        return Finding(check, "failure", f"the check was not done within {patience:g} s and was stopped", EXPLAIN, text)
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return Finding(check, "failure", f"the process that ran this check {how}", EXPLAIN, text)


def main() -> None:
    """The process that checks: the names are its arguments."""
    # What libraries print, from C too, is not to come between the lines.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as lines:
        os.dup2(2, 1)
        for name in sys.argv[1:]:
            _write(lines, {"begun": name})
            for finding in run_check(name):
                _write(lines, asdict(finding))
            _write(lines, {"done": name})


def _write(lines: IO[str], event: dict[str, Any]) -> None:
    lines.write(json.dumps(event) + "\n")
    lines.flush()


def _start(names: Sequence[str], complaints: IO[str]) -> subprocess.Popen[str]:
    """With the module search path of this process, so that it imports what a command would import."""
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", _START, json.dumps(sys.path), *names],
        stdout=subprocess.PIPE,
        stderr=complaints,
        stdin=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
    )


def _events(child: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert child.stdout is not None
    with child.stdout:
        for line in child.stdout:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:  # cut off by its death
                return


class _Watch:
    """Kills a process that says nothing for too long."""

    def __init__(self, child: subprocess.Popen[str], patience: float) -> None:
        self.child, self.patience, self.bitten = child, patience, False
        self.timer = threading.Timer(patience, self._bite)

    def __enter__(self) -> _Watch:
        self.timer.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.timer.cancel()
        if kind is not None:
            self.child.kill()
            self.child.wait()

    def restart(self) -> None:
        self.timer.cancel()
        self.timer = threading.Timer(self.patience, self._bite)
        self.timer.start()

    def _bite(self) -> None:
        self.bitten = True
        self.child.kill()
