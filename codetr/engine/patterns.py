"""Parameters by a piece of their dotted name, as `train.lr_groups` and `train.freeze` choose them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from codetr.errors import nearest

NORM = "norm"
SHOWN = 12


def matching(model: nn.Module, pattern: str) -> set[nn.Parameter]:
    """Parameters with the pattern in one of their dotted names; those of norm layers too, if the pattern is `norm`."""
    found = set()
    for place, module in model.named_modules(remove_duplicate=False):
        is_meant = pattern == NORM and NORM in type(module).__name__.lower()
        for name, parameter in module.named_parameters(recurse=False):
            if is_meant or pattern in (f"{place}.{name}" if place else name):
                found.add(parameter)
    return found


def hint(model: nn.Module, pattern: str) -> str:
    """What could have been meant by a pattern that matches nothing; the end of an error message."""
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    close = nearest(pattern, _pieces(names))
    if close is not None:
        return f"Did you mean {close!r}?"
    beginnings = sorted({".".join(name.split(".")[:2]) for name in names})
    more = f" and {len(beginnings) - SHOWN} more" if len(beginnings) > SHOWN else ""
    return f"Names begin with {', '.join(beginnings[:SHOWN])}{more}."


def _pieces(names: Iterable[str]) -> list[str]:
    """Every beginning and every single part of the dotted names, the shorter ones first."""
    pieces = set()
    for name in names:
        parts = name.split(".")
        pieces |= {part for part in parts if not part.isdigit()}
        pieces |= {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return sorted(pieces, key=lambda piece: (len(piece), piece))
