"""Work done ahead by threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from codetr.prediction.ahead import ahead


def test_results_come_in_order_and_in_parallel() -> None:
    together = threading.Barrier(3)  # breaks unless three are at work at the same time

    def work(number: int) -> int:
        together.wait(timeout=10)
        return 2 * number

    assert list(ahead(work, range(9), workers=3, window=3)) == [2 * number for number in range(9)]
    assert list(ahead(work, [], workers=3, window=3)) == []


def test_no_more_than_the_window_is_begun() -> None:
    handed: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            handed.append(number)
            yield number

    results = ahead(abs, items(), workers=2, window=4)
    assert [next(results), next(results)] == [0, 1]
    assert len(handed) == 2 + 4  # two were taken, four are on their way
    results.close()  # type: ignore[attr-defined]
    assert len(handed) == 6


def test_what_is_begun_weighs_no_more_than_the_budget() -> None:
    begun: list[int] = []
    results = ahead(begun.append, [3, 3, 3, 90, 1], workers=1, window=5, weigh=lambda item: item, budget=7)
    next(results)
    assert set(begun) <= {3} and len(begun) <= 2  # a third would make nine
    for _ in range(4):  # one that is heavier than the budget comes alone
        next(results)
    assert begun == [3, 3, 3, 90, 1]


def test_an_exception_comes_where_its_result_would() -> None:
    def work(number: int) -> int:
        return 6 // (number - 2)

    results = ahead(work, range(4), workers=2, window=4)
    assert [next(results), next(results)] == [-3, -6]
    with pytest.raises(ZeroDivisionError):
        next(results)
