"""The processes that load images: when they end, and what is done when one was killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


def obey_parent_only(worker: int) -> None:
    """Set up a worker: SIGTERM ends it if its parent sends it, and is ignored otherwise (on Linux).

    A launcher signals every process of a run; the training process decides when to stop, and needs its workers. But it
    ends them by the same signal: when a loader is given up in the middle of an epoch, and at an exit by an exception.
    """
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        parent = multiprocessing.parent_process()  # os.getppid() may be a fork server
        assert parent is not None
        threading.Thread(target=_await_termination, args=(parent.pid,), daemon=True).start()


def _await_termination(parent: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


class Deaths:
    """PyTorch answers the death of a worker with an exception wherever the main thread is, be it inside the optimizer.

    With this, only where workers are waited for.
    """

    def __init__(self) -> None:
        self._torch: Callable[[int, FrameType | None], object] | None = None
        self._listening = self._missed = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Start workers and wait for them in here. Raises: RuntimeError if one was killed before, or is now."""
        self._listening = True
        try:
            if self._missed and self._torch is not None:
                self._missed = False
                self._torch(signal.SIGCHLD, None)
            yield
        finally:
            self._listening = False
            self._stand_in()

    def _stand_in(self) -> None:
        """Take the place of PyTorch's handler, which it sets with the first worker."""
        if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
            return  # PyTorch does not listen there either
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and handler != self._arrived:
            self._torch = handler
            signal.signal(signal.SIGCHLD, self._arrived)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._listening and self._torch is not None:
            self._torch(number, frame)
        else:
            self._missed = True


DEATHS = Deaths()
"""Of this process: a signal has one handler."""
