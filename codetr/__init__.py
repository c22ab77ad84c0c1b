"""codetr: end-to-end object detectors under collaborative hybrid assignments training."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codetr.api import Detector, build, evaluate, train
    from codetr.api import load_detector as load

    __version__: str

__all__ = ["Detector", "__version__", "build", "evaluate", "load", "train"]

_IN_API = {"Detector": "Detector", "build": "build", "evaluate": "evaluate", "load": "load_detector", "train": "train"}


def __getattr__(name: str) -> Any:
    """The interface is imported when it is first used, because it imports torch."""
    if name == "__version__":
        return metadata.version("codetr")
    if name in _IN_API:
        return getattr(import_module("codetr.api"), _IN_API[name])
    raise AttributeError(f"module 'codetr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
