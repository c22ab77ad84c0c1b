"""Work done by threads ahead of whoever takes the results, in order and within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    window: int,
    weigh: Callable[[Item], int] = lambda item: 0,
    budget: int = 0,
) -> Iterator[Result]:
    """The results of a function in the order of the items, computed by threads before they are asked for.

    window: so many items at most are begun and not yet taken. weigh, budget: what the items of a window weigh
    together, but for one that is heavier alone. An exception of the function is raised where its result would come.
    """
    begun: deque[tuple[Future[Result], int]] = deque()
    weight = 0
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(workers, thread_name_prefix="ahead"))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)  # the one who asks may have given up
        for item in items:
            own = weigh(item)
            while begun and (len(begun) >= window or weight + own > budget > 0):
                future, taken = begun.popleft()
                weight -= taken
                yield future.result()
            begun.append((pool.submit(function, item), own))
            weight += own
        while begun:
            yield begun.popleft()[0].result()
