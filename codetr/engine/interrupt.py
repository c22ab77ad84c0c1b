"""Ctrl-C and SIGTERM asked for at any moment, answered at the end of a step."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ECHO = 5.0
"""Seconds in which a further signal is the same request once more: SLURM signals all processes of a job step, also the
agent that started the ranks, which passes the signal on to them."""


class Interrupted(Exception):
    """Raised inside `Interrupt.at_once`."""


class Interrupt:
    """Catches the first SIGINT or SIGTERM; a second one ends the process as if nobody were listening.

    A rank that an elastic agent started takes a second one within `ECHO` seconds for the first. number: the signal that
    arrived, or None.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._at_once = False
        self._process, self._arrival = os.getpid(), 0.0

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
        launched = "TORCHELASTIC_RUN_ID" in os.environ
        if self.number is None:
            self.number, self._arrival = number, time.monotonic()
            if not launched:
                self._restore(number)
            if self._at_once:
                raise Interrupted
        elif not launched or time.monotonic() - self._arrival > ECHO:
            self._restore(number)
            signal.raise_signal(number)

    def _restore(self, number: int) -> None:
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
