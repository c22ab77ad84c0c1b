"""What a check found, and the command that mends it."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "note", "warning", "failure"]

EXPLAIN = "codetr --debug doctor"
"""Shows the traceback of what failed unexpectedly."""


@dataclass(frozen=True)
class Finding:
    """One row of the report.

    check: what was looked at. verdict: "note" is worth knowing, "warning" may hurt, "failure" must be mended.
    found: one sentence. fix: a command to paste, which every failure has. detail: a traceback or the like, for --debug.
    """

    check: str
    verdict: Verdict
    found: str
    fix: str = ""
    detail: str = ""


def failed(findings: Iterable[Finding]) -> bool:
    """Whether any is a failure."""
    return any(finding.verdict == "failure" for finding in findings)


def crashed(check: str, error: BaseException) -> Finding:
    """The row of a check that an exception ended."""
    detail = "".join(traceback.format_exception(error))
    return Finding(check, "failure", f"the check ended with {described(error)}", EXPLAIN, detail)


def described(error: BaseException) -> str:
    """Kind and first line of an error, of at most 200 characters."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."


def pip_install(*arguments: str) -> str:
    """A command that installs into the environment of this Python, whatever shell and environment are active."""
    words = [shlex.quote(argument) for argument in arguments]
    if importlib.util.find_spec("pip") is None and shutil.which("uv"):
        return " ".join(["uv pip install --python", shlex.quote(sys.executable), *words])
    return " ".join([shlex.quote(_python()), "-m pip install", *words])


def _python() -> str:
    """`python` where a shell means this one by it, else the path."""
    return "python" if shutil.which("python") == sys.executable else sys.executable
