"""Versions, read from what the packages say of themselves: nothing is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import NamedTuple

from packaging.requirements import Requirement

from codetr.doctor.findings import Finding, pip_install

OLDEST_PYTHON = (3, 10)
SHOWN = ("torch", "torchvision", "triton", "timm", "numpy")

Version = Callable[[str], str | None]
"""The installed version of a package, None if there is none."""


class Unmet(NamedTuple):
    """A requirement of a package that is not met. found: the version there is, None if there is none."""

    package: str
    requirement: Requirement
    found: str | None

    def __str__(self) -> str:
        name, specifier = self.requirement.name, self.requirement.specifier
        found = f"{self.found} is installed" if self.found else "it is not installed"
        return f"{self.package} needs {name}{specifier}, {found}"


def check_python() -> list[Finding]:
    return [judge_python(sys.version_info[:3], bits=64 if sys.maxsize > 2**32 else 32, path=sys.executable)]


def judge_python(version: tuple[int, int, int], *, bits: int, path: str) -> Finding:
    found = f"{'.'.join(map(str, version))}, {path}"
    if version[:2] < OLDEST_PYTHON or bits < 64:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        fix = "uv venv --python 3.12 && . .venv/bin/activate && uv pip install codetr"
        return Finding("python", "failure", f"{found}, {bits} bits: codetr needs {oldest} or newer, of 64 bits", fix)
    return Finding("python", "ok", found)


def check_versions() -> list[Finding]:
    """Whether what is installed is what codetr needs, and what torch, torchvision and timm need of each other."""
    shown = ", ".join(f"{name} {version(name) or 'missing'}" for name in SHOWN)
    own = requirements("codetr")
    if own is None:
        missing = "codetr itself is not installed, so what it needs is not known; "
        return [Finding("versions", "note", f"{missing}{shown}", pip_install("-e", ".")), *check_fit()]
    problems = list(unmet("codetr", own, version))
    found = [Finding("versions", "failure", str(problem), fix(problem)) for problem in problems]
    return [*(found or [Finding("versions", "ok", shown)]), *check_fit()]


def check_fit() -> list[Finding]:
    """What torch, torchvision and timm require of others. A warning: the proof is whether they run, which is tried.

    Triton has a check of its own.
    """
    problems = [
        problem
        for package in ("torch", "torchvision", "timm")
        for problem in unmet(package, requirements(package) or [], version)
        if "triton" not in problem.requirement.name
    ]
    return [Finding("versions", "warning", str(problem), fix(problem)) for problem in problems]


def fix(problem: Unmet) -> str:
    """torch and torchvision are chosen together; anything else by its own requirement."""
    name = problem.requirement.name
    if name in ("torch", "torchvision"):
        wanted = [f"{name}{problem.requirement.specifier}" if problem.package == "codetr" else name]
        return pip_install("--upgrade", *wanted, "torchvision" if name == "torch" else "torch")
    return pip_install(f"{name}{problem.requirement.specifier}")


def unmet(package: str, wanted: Sequence[str], installed: Version) -> Iterator[Unmet]:
    """Those of the requirements of a package that count on this platform, without extras, and are not met."""
    for line in wanted:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = installed(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            yield Unmet(package, requirement, found)


def version(name: str) -> str | None:
    """The installed version of a package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def requirements(name: str) -> list[str] | None:
    """What a package says it needs; None if it is not installed."""
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return None
