"""Ctrl-C and SIGTERM asked for at any moment, answered at the end of a step."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """Raised inside `Interrupt.at_once`."""


class Interrupt:
    """Catches the first SIGINT or SIGTERM; a second one ends the process as if nobody were listening.

    number: the signal that arrived, or None.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._at_once = False
        self._process = os.getpid()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Only the main thread may listen to signals; elsewhere Python refuses and nothing is caught."""
        try:
            before = {number: signal.signal(number, self._arrived) for number in SIGNALS}
        except ValueError:
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def at_once(self, *, active: bool = True) -> Iterator[None]:
        """Within this block a signal raises `Interrupted` where it arrives: for work that can be thrown away."""
        self._at_once = active
        try:
            yield
        finally:
            self._at_once = False

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked loader worker gets Ctrl-C too; the main process ends it in time
            return
        self.number = number
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        if self._at_once:
            raise Interrupted
