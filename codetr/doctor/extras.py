"""Packages that codetr can do without."""

from __future__ import annotations

from collections.abc import Callable

from codetr.doctor.findings import Finding, pip_install
from codetr.doctor.packages import version

EXTRAS = {
    "simplejpeg": "faster decoding of JPEG files",
    "matplotlib": "charts of benchmarks",
    "tensorboard": "curves in TensorBoard",
    "transformers": "comparison with the models of transformers",
}
"""What each is for."""


def check_extras() -> list[Finding]:
    return [judge_extras(version)]


def judge_extras(installed: Callable[[str], str | None]) -> Finding:
    versions = {name: installed(name) for name in EXTRAS}
    present = [f"{name} {number}" for name, number in versions.items() if number]
    absent = [name for name, number in versions.items() if not number]
    found = ", ".join(present) or "none installed"
    if not absent:
        return Finding("extras", "ok", found)
    lacking = ", ".join(f"{name} ({EXTRAS[name]})" for name in absent)
    return Finding("extras", "note", f"{found}; not installed: {lacking}", pip_install(*absent))
