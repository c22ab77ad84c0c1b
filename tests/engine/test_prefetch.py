"""Batches arrive in order, one ahead on a GPU, as they are on a CPU, and errors in their own place."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from codetr.engine.prefetch import one_ahead, prefetched
from codetr.engine.trainer import grouped
from codetr.structures import Batch, ImageBatch, ImageInfo, Targets

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def batch_of(index: int) -> Batch:
    """One image, whose pixels and number are `index`."""
    pixels, sizes = torch.full((1, 3, 2, 2), float(index)), torch.full((1, 2), 2.0)
    nowhere = torch.zeros(1, 1, dtype=torch.bool)
    targets = Targets(torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.int64), nowhere, (0,))
    images = ImageBatch(pixels, torch.zeros(1, 2, 2, dtype=torch.bool), sizes)
    return Batch(images, targets, (ImageInfo(index, f"{index}.jpg", (2, 2)),))


def watched(log: list[str], *, broken: int | None = None, count: int = 3) -> Iterator[int]:
    for item in range(count):
        if item == broken:
            raise ValueError(f"item {item}")
        log.append(f"read {item}")
        yield item


def test_the_next_item_is_started_before_the_last_one_is_given_out() -> None:
    log: list[str] = []
    for item in one_ahead(watched(log), lambda item: item):
        log.append(f"got {item}")
    assert log == ["read 0", "read 1", "got 0", "read 2", "got 1", "got 2"]


@pytest.mark.parametrize(("broken", "given"), [(0, []), (1, [0]), (2, [0, 1])])
def test_an_error_comes_in_the_place_of_its_item(broken: int, given: list[int]) -> None:
    found: list[int] = []
    with pytest.raises(ValueError, match=f"^item {broken}$") as caught:
        for item in one_ahead(watched([], broken=broken), lambda item: item):
            found.append(item)
    assert found == given
    assert "watched" in [entry.name for entry in caught.traceback]  # where it happened


def test_an_error_of_starting_comes_in_its_place() -> None:
    found: list[float] = []
    with pytest.raises(ZeroDivisionError):
        for item in one_ahead([2, 1, 0], lambda item: 1 / item):
            found.append(item)
    assert found == [0.5, 1.0]


def test_no_items_are_no_items() -> None:
    assert list(one_ahead([], lambda item: item)) == []
    assert list(prefetched([], CPU)) == []


def test_batches_pass_through_on_a_cpu() -> None:
    batches = [batch_of(index) for index in range(3)]
    log: list[int] = []

    def reading() -> Iterator[Batch]:
        for index, batch in enumerate(batches):
            log.append(index)
            yield batch

    for index, (batch, source) in enumerate(zip(prefetched(reading(), CPU), batches, strict=True)):
        assert batch.images.pixels is source.images.pixels and batch.targets.labels is source.targets.labels
        assert batch.infos == source.infos and log == list(range(index + 1))


def test_accumulated_pieces() -> None:
    groups = list(grouped(prefetched([batch_of(index) for index in range(5)], CPU), 2))
    assert [len(group) for group in groups] == [2, 2, 1]
    assert [batch.infos[0].image_id for group in groups for batch in group] == [0, 1, 2, 3, 4]


class FakeGpu:
    """What is asked of CUDA's streams, in order, with batches that stay on the host."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.current = "main"
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream("side", self))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: FakeStream(self.current, self))
        monkeypatch.setattr(torch.cuda, "stream", self.stream)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda _, stream: self.log.append(f"used on {stream.name}"))

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        self.current = stream.name
        yield
        self.current = "main"


@dataclasses.dataclass
class FakeStream:
    name: str
    gpu: FakeGpu

    def record_event(self) -> str:
        self.gpu.log.append(f"event on {self.name}")
        return f"event {self.gpu.log.count(f'event on {self.name}')}"

    def wait_event(self, event: str) -> None:
        self.gpu.log.append(f"{self.name} waits for {event}")


def test_copies_on_a_stream_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is waited for by its own event: the copy that runs ahead is not."""
    gpu = FakeGpu(monkeypatch)

    def copied(batch: Batch, device: torch.device) -> Batch:
        assert device == CUDA
        gpu.log.append(f"copy {batch.infos[0].image_id} on {gpu.current}")
        return batch

    monkeypatch.setattr(Batch, "to", copied)
    batches = prefetched([batch_of(0), batch_of(1)], CUDA)
    next(batches)
    tensors = 6  # pixels, padding, sizes; boxes, labels, valid
    started = ["copy 0 on side", "event on side", "copy 1 on side", "event on side"]
    assert gpu.log == [*started, "main waits for event 1", *["used on main"] * tensors]
    gpu.log.clear()
    next(batches)
    assert gpu.log == ["main waits for event 2", *["used on main"] * tensors]


@pytest.mark.gpu
def test_batches_on_a_gpu_are_those_of_the_host() -> None:
    """The caller's stream is kept busy, so that a copy which is not waited for would show."""
    sources = [batch_of(index) for index in range(6)]
    busy = torch.randn(2000, 2000, device="cuda")
    sums = []
    for batch in prefetched([source.pin_memory() for source in sources], CUDA):
        busy = (busy @ busy).clamp(-1, 1)
        sums.append(batch.images.pixels.double().sum())
        del batch
    assert [float(found) for found in sums] == [float(source.images.pixels.double().sum()) for source in sources]
