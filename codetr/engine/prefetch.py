"""Batches that are on the device when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import TypeVar

import torch
from torch import Tensor

from codetr.structures import Batch

Item = TypeVar("Item")
Started = TypeVar("Started")


def prefetched(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches on `device`; on a GPU the next one is copied while the last one is worked on.

    The host waits for no copy if batches are pinned (`DataLoader(pin_memory=True)`). On a CPU they pass as they are,
    none ahead. An error of `batches` is raised when its batch is asked for, after all before it.
    """
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    copies = _Copies(device)
    for copy in one_ahead(batches, copies.start):
        yield copies.arrived(copy)


def one_ahead(items: Iterable[Item], start: Callable[[Item], Started]) -> Iterator[Started]:
    """What `start` makes of each item, the next one started before the last one is given out.

    An error of `items` or `start` is raised in the place of its item.
    """
    iterator = iter(items)

    def following() -> Started | _Error | None:
        try:
            for item in iterator:
                return start(item)
        except Exception as error:
            return _Error(error)
        return None

    current = following()
    while current is not None:
        if isinstance(current, _Error):
            raise current.error
        after = following()
        yield current
        current = after


class _Error:
    """Held back until its turn."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Copies:
    """Copies to a GPU on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def start(self, batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(self._stream):
            return batch.to(self._device), self._stream.record_event()

    def arrived(self, copy: tuple[Batch, torch.cuda.Event]) -> Batch:
        """The batch; whatever the caller's stream does from now on happens after its copy, not after later ones."""
        batch, done = copy
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(done)
        for tensor in _tensors(batch):
            tensor.record_stream(stream)  # or its memory would be given to a later copy while it is still read
        return batch


def _tensors(batch: Batch) -> Iterator[Tensor]:
    for door in (batch.images, batch.targets):
        for field in fields(door):
            value = getattr(door, field.name)
            if isinstance(value, Tensor):
                yield value
