from __future__ import annotations

import pytest
import torch

from codetr.bench.step.recorder import HostClock, Recorder, clock_of, head_part, in_order


def test_parts_inside_others_count_for_themselves(clock) -> None:
    """Each mark takes 1 ms of the part that it ends."""
    recorder = Recorder(clock)
    with recorder.step():
        clock.advance(2)
        with recorder.part("losses"):
            clock.advance(10)
            with recorder.part("matching"):
                clock.advance(5)
            clock.advance(20)
        with recorder.part("data"):
            clock.advance(100)
        with recorder.part("losses"):
            clock.advance(1000)
    (found,) = recorder.read()
    assert found.parts == {
        "losses": 10 + 1 + 20 + 1 + 1000 + 1,
        "matching": 5 + 1,
        "data": 100 + 1,
        "rest": 2 + 1 + 1 + 1 + 1,  # from the beginning, between the parts, and to the end
    }
    assert found.total == sum(found.parts.values()) == 1146


def test_the_clock_is_read_when_the_steps_are_over(clock) -> None:
    recorder = Recorder(clock)
    for _ in range(3):
        with recorder.step(), recorder.part("data"):
            pass
    assert clock.waits == 0
    assert len(recorder.read()) == 3
    assert clock.waits == 1
    assert recorder.read() == []


def test_steps_that_are_forgotten(clock) -> None:
    recorder = Recorder(clock)
    with recorder.step(), recorder.part("data"):
        clock.advance(7)
    recorder.forget()
    with recorder.step(), recorder.part("backward"):
        clock.advance(3)
    (found,) = recorder.read()
    assert found.parts == {"backward": 4, "rest": 2}


def test_a_timed_function_is_called_as_it_was(clock) -> None:
    recorder = Recorder(clock)
    timed = recorder.timed(lambda a, *, b: (a, b), "decoder")
    with recorder.step():
        assert timed(1, b=2) == (1, 2)
    assert recorder.read()[0].parts["decoder"] == 1


def test_a_part_that_fails_ends(clock) -> None:
    recorder = Recorder(clock)
    with recorder.step():
        with pytest.raises(ZeroDivisionError), recorder.part("encoder"):
            1 / 0  # noqa: B018
        clock.advance(50)
    found = recorder.read()[0].parts
    assert found == {"encoder": 1, "rest": 52}


def test_heads_are_listed_where_they_are_called() -> None:
    names = {"rest", "decoder", head_part("b"), head_part("a"), "adapter, positive queries", "data"}
    expected = ["data", "adapter, positive queries", "head a", "head b", "decoder", "rest"]
    assert in_order(names) == expected
    assert in_order({"head a", "decoder"}) == ["head a", "decoder"]


def test_the_host_s_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([1.0, 1.25])
    monkeypatch.setattr("codetr.bench.step.recorder.time.perf_counter", lambda: next(moments))
    clock = clock_of(torch.device("cpu"))
    assert isinstance(clock, HostClock)
    assert clock.milliseconds(clock.mark(), clock.mark()) == 250


@pytest.mark.gpu
def test_the_clock_of_a_gpu_sees_its_work() -> None:
    device = torch.device("cuda")
    recorder = Recorder(clock_of(device))
    square = torch.randn(2048, 2048, device=device)
    with recorder.step(), recorder.part("decoder"):
        for _ in range(20):
            square = (square @ square).tanh()
    (found,) = recorder.read()
    assert found.parts["decoder"] > 0.9 * found.total > 0
    assert sum(found.parts.values()) == pytest.approx(found.total)
