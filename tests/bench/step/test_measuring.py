"""Turns, batches and sums, of subjects whose parts take a known time."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from codetr.bench.step.measuring import BLOCK, run
from codetr.bench.step.subjects import WITH, WITHOUT, Subject
from codetr.bench.step.tables import record
from codetr.engine.config import TrainConfig

CPU = torch.device("cpu")


class Toys:
    """Subjects that note every batch they get, and whose decoder takes as long as they are told."""

    classes, note = 1, "toys"

    def __init__(self, clock) -> None:
        self.clock, self.taken = clock, []

    def batches(self, first):
        for number in range(first, first + 1000):
            yield SimpleNamespace(number=number, to=lambda device, number=number: number)

    def maker(self, name, milliseconds, accumulate=1):
        model = nn.Linear(1, 1)
        config = TrainConfig(batch_size=4, accumulate=accumulate, lr_groups=())
        recorders = []

        @contextmanager
        def instruments(recorder):
            recorders.append(recorder)
            yield

        def losses(number):
            self.taken.append((name, number))
            with recorders[-1].part("decoder"):
                self.clock.advance(milliseconds)
                return {"loss": model(torch.ones(1)).sum()}

        return lambda: Subject(name, model, losses, instruments, config, note=f"{milliseconds}")


def test_turns_on_the_same_batches(clock) -> None:
    toys = Toys(clock)
    run([toys.maker(WITHOUT, 1), toys.maker(WITH, 2)], toys, steps=BLOCK + 2, warmup=2, clock=clock, device=CPU)
    block, last = list(range(BLOCK + 1)), [BLOCK + 1, BLOCK + 2, BLOCK + 3]  # each with a step that does not count
    expected = [(name, number) for name in (WITHOUT, WITH) for number in (0, 1)]
    expected += [(name, number) for name in (WITHOUT, WITH) for number in block]
    expected += [(name, number) for name in (WITH, WITHOUT) for number in last]
    assert toys.taken == expected


def test_accumulated_pieces_are_different_batches(clock) -> None:
    toys = Toys(clock)
    run([toys.maker(WITHOUT, 1, accumulate=2)], toys, steps=BLOCK + 1, warmup=1, clock=clock, device=CPU)
    numbers = [number for _, number in toys.taken]
    steps = BLOCK + 1 + 2
    assert numbers == [0, 1, *range(2 * steps)]


def test_figures(clock) -> None:
    """Marks: 12 of a step, two around it and around each of data, transfer, decoder, backward and optimizer."""
    toys = Toys(clock)
    makers = [toys.maker(WITHOUT, 9), toys.maker(WITH, 49)]
    results = run(makers, toys, steps=7, warmup=1, clock=clock, device=CPU)
    without, with_heads = results
    each = {"data": 1, "transfer": 1, "backward": 1, "clipping and optimizer": 1, "rest": 6}
    assert without.parts == {"decoder": 10, **each}
    assert with_heads.parts == {"decoder": 50, **each}
    assert (without.mean, with_heads.mean) == (20, 60)
    assert without.times.median == without.times.p95 == 20
    assert without.times.runs == 7
    assert without.images_per_second == pytest.approx(200)
    assert without.parameters == 2
    found = record(results)
    assert found["ratios_to_without_heads"] == {WITH: 3}
    assert found["subjects"][0]["shares"]["decoder"] == 0.5
    assert sum(found["subjects"][1]["shares"].values()) == pytest.approx(1)


def test_the_median_is_that_of_the_steps_and_the_parts_are_means(clock) -> None:
    toys = Toys(clock)
    slow = toys.maker(WITHOUT, 9)
    toys.batches = lambda first: iter(
        SimpleNamespace(to=lambda device, pause=pause: clock.advance(pause)) for pause in [0, 0, 0, 30, 0, 0, 0]
    )
    (result,) = run([slow], toys, steps=3, warmup=1, clock=clock, device=CPU)
    assert (result.times.median, result.times.p95, result.mean) == (20, 50, 30)
    assert result.parts["transfer"] == 11
    assert sum(result.parts.values()) == result.mean
