"""Text from files, made fit for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Text from a file without the control characters that would drive the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
