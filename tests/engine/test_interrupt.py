"""Signals are noted, and only the first of them."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from codetr.engine.interrupt import Interrupt, Interrupted


def test_the_first_signal_is_noted_the_second_acts() -> None:
    interrupt = Interrupt()
    with interrupt.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_launcher_that_repeats_a_signal_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM signals ranks and agent, and the agent its ranks."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    now = [100.0]
    monkeypatch.setattr("codetr.engine.interrupt.time.monotonic", lambda: now[0])
    interrupt = Interrupt()
    with interrupt.listening():
        os.kill(os.getpid(), signal.SIGINT)
        now[0] += 4.9
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.number == signal.SIGINT
        now[0] += 0.2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_work_that_can_be_thrown_away_ends_at_once() -> None:
    interrupt = Interrupt()
    with interrupt.listening():
        with pytest.raises(Interrupted), interrupt.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.number == signal.SIGTERM


def test_another_thread_than_the_main_one_trains_without_listening() -> None:
    noted = []

    def work() -> None:
        with Interrupt().listening():
            noted.append("ran")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert noted == ["ran"]
