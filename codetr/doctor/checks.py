"""The checks in the order of the report."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from codetr.doctor.findings import Finding, crashed
from codetr.doctor.importing import Unimportable, not_checked

CHECKS = {
    "python": "packages:check_python",
    "versions": "packages:check_versions",
    "torch": "builds:check_torch",
    "torchvision": "builds:check_torchvision",
    "triton": "builds:check_triton",
    "timm": "builds:check_timm",
    "build": "builds:check_build",
    "gpu": "gpus:check_gpus",
    "backend": "gpus:check_backend",
    "kernels": "kernels:check_kernels",
    "compiler": "compiler:check_compiler",
    "distributed": "communication:check_communication",
    "gloo": "communication:check_gloo",
    "evaluators": "evaluators:check_evaluators",
    "images": "images:check_images",
    "cores": "machine:check_cores",
    "shared memory": "machine:check_shared_memory",
    "open files": "machine:check_open_files",
    "disk": "machine:check_disk",
    "extras": "extras:check_extras",
}
"""Module and function of each; a module is imported when its check is run, so that a broken one is that check's."""

OPTIONAL = ("gloo",)
"""Those that take longer."""


def run_check(name: str) -> list[Finding]:
    """The findings of a check; an exception is one too."""
    module, _, function = CHECKS[name].partition(":")
    try:
        check: Callable[[], list[Finding]] = getattr(importlib.import_module(f"codetr.doctor.{module}"), function)
        return check()
    except Unimportable as error:
        return [not_checked(name, error)]
    except Exception as error:
        return [crashed(name, error)]
