"""Packages that may be broken: imported once, and what went wrong kept for every check that needs them."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import site
import sysconfig
import traceback
from pathlib import Path
from types import ModuleType

from codetr.doctor.findings import Finding, described, pip_install

TOGETHER = ("torch", "torchvision", "triton")
"""Built for one another: reinstalled together."""


class Unimportable(Exception):
    """A package that cannot be imported; the message names it and the reason.

    fix: the command. detail: traceback. misplaced: whether something else of that name was found before the package.
    """

    def __init__(self, message: str, *, name: str, fix: str, detail: str = "", misplaced: bool = False) -> None:
        super().__init__(message)
        self.name, self.fix, self.detail, self.misplaced = name, fix, detail, misplaced


def require(name: str) -> ModuleType:
    """Import a package. Raises: Unimportable, with the same reason whenever it is asked for again."""
    module, error = _attempt(name)
    if module is None:
        assert error is not None
        where = origin(name)
        detail = "".join(traceback.format_exception(error))
        raise Unimportable(
            explained(name, error, where),
            name=name,
            fix=remedy(name, error, where),
            detail=detail,
            misplaced=where is not None and not is_installed(where),
        )
    return module


def not_checked(check: str, error: Unimportable) -> Finding:
    """The row of a check whose package is missing; the reason is left to that package's own row if it has one."""
    reason = f"{error.name} cannot be imported" if error.name in TOGETHER else str(error)
    return Finding(check, "failure", f"not checked: {reason}", error.fix, error.detail)


@functools.cache
def _attempt(name: str) -> tuple[ModuleType | None, BaseException | None]:
    """A second import of a package whose first one failed halfway would fail for another reason, or not at all."""
    try:
        return importlib.import_module(name), None
    except (Exception, SystemExit) as error:
        return None, error


def origin(name: str) -> Path | None:
    """The file that `import name` would run, None if there is none. The top-level name counts."""
    try:
        spec = importlib.util.find_spec(name.partition(".")[0])
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def explained(name: str, error: BaseException, where: Path | None) -> str:
    """Why a package cannot be imported, for a person. where: the file that is run, None if there is none."""
    if where is None:
        return f"{name} is not installed"
    found = "" if is_installed(where) else f" from {where}, which is not where packages are installed"
    return f"{name} cannot be imported{found} ({described(error)})"


def remedy(name: str, error: BaseException, where: Path | None) -> str:
    """The command that most likely mends it."""
    if where is not None and not is_installed(where):
        if any(where.is_relative_to(Path(place).absolute()) for place in _python_path()):
            return "unset PYTHONPATH"
        if where.is_relative_to(Path.cwd()):
            return "cd ~ && codetr doctor"
    if "undefined symbol" in str(error) and os.environ.get("LD_LIBRARY_PATH"):
        return "unset LD_LIBRARY_PATH  # libraries of another CUDA come before torch's own"
    top = name.partition(".")[0]
    return pip_install("--upgrade", "--force-reinstall", *(TOGETHER[:2] if top in TOGETHER else (top,)))


def _python_path() -> list[str]:
    return [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]


def is_installed(where: Path) -> bool:
    """Whether a file lies where packages are installed, or belongs to Python."""
    places = [*sysconfig.get_paths().values(), site.getusersitepackages(), *site.getsitepackages()]
    return any(where.is_relative_to(place) for place in places)
