"""What a step tells beside its losses: right numbers, the same training with and without them."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

sys.path.append(str(Path(__file__).resolve().parents[1] / "models"))

from no_host import BACKWARD_DEVICE, Fakes, NoHost
from small import HEADS, PLUS_PLUS, batch, small_model

from codetr.engine.telemetry import StepObserver
from codetr.models.collaborative import Collaborative
from codetr.structures import ImageBatch, Targets, to_device

COUNTS = {f"positives.{head}.{which}" for head in ("faster_rcnn", "atss") for which in ("found", "queries")}
PRODUCTS = {
    *("products.detr.detr", "products.detr.faster_rcnn", "products.detr.atss"),
    *("products.faster_rcnn.faster_rcnn", "products.faster_rcnn.atss", "products.atss.atss"),
}


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def one_step(observer: StepObserver, model: nn.Module, *pieces: tuple[ImageBatch, Targets], step: int = 1) -> None:
    """Forward and backward as the engine does them."""
    torch.manual_seed(step)
    for piece in pieces:
        with observer.piece(step=step):
            (total(model(*piece)) / len(pieces)).backward()


def both_heads(**settings: Any) -> Collaborative:
    return small_model(PLUS_PLUS, HEADS["both"], **settings)


def test_positives_per_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pieces of two images: ATSS finds 20, 0, 5 and 3 positives, of which at most 12 of an image become queries."""
    model = small_model(PLUS_PLUS, HEADS["atss"])
    assigned = iter([(20, 0), (5, 3)])

    def assign(output: Any, targets: Targets) -> Tensor:
        index = torch.full((2, output.priors.boxes.shape[-2]), -1)
        for image, count in enumerate(next(assigned)):
            index[image, :count] = 0
            index[image, 30:40] = -2  # ignored
        return index

    monkeypatch.setattr(model.heads["atss"], "assign", assign)
    observer = StepObserver(model, conflict_every=None, ranks=1)
    one_step(observer, model, batch(), batch())
    figures = observer.figures()
    assert {name: value.item() for name, value in figures.items()} == {
        "positives.atss.found": (20 + 0 + 5 + 3) / 4,
        "positives.atss.queries": (12 + 0 + 5 + 3) / 4,
    }
    assert observer.figures() == {}


def test_negatives_that_became_queries_are_no_positives(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(PLUS_PLUS, HEADS["atss"], fill="negatives")

    def assign(output: Any, targets: Targets) -> Tensor:
        index = torch.full((2, output.priors.boxes.shape[-2]), -1)
        index[0, :3] = 0
        return index

    monkeypatch.setattr(model.heads["atss"], "assign", assign)
    observer = StepObserver(model, conflict_every=None, ranks=1)
    one_step(observer, model, batch())
    assert {name: value.item() for name, value in observer.figures().items()} == {
        "positives.atss.found": 1.5,
        "positives.atss.queries": 1.5,
    }


def test_without_positive_queries_none_is_counted() -> None:
    model = both_heads(positive_queries=False)
    observer = StepObserver(model, conflict_every=None, ranks=1)
    one_step(observer, model, batch())
    assert observer.figures().keys() == {"positives.faster_rcnn.found", "positives.atss.found"}


def test_gradients_are_measured_every_so_many_steps() -> None:
    model = both_heads()
    observer = StepObserver(model, conflict_every=2, ranks=1)
    told = []
    for step in (1, 2, 3, 4):
        one_step(observer, model, batch(), step=step)
        told.append(set(observer.figures()))
    assert told == [COUNTS, COUNTS | PRODUCTS, COUNTS, COUNTS | PRODUCTS]


def test_training_is_the_same_bit_for_bit() -> None:
    def trained(*, every: int | None = None, watched: bool = True) -> dict[str, Tensor]:
        model = both_heads()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        observer = StepObserver(model, conflict_every=every, ranks=1)
        for step, pieces in enumerate(([batch()], [batch(), batch((2, 0))]), start=1):
            if watched:
                one_step(observer, model, *pieces, step=step)
                observer.figures()
            else:
                torch.manual_seed(step)
                for piece in pieces:
                    (total(model(*piece)) / len(pieces)).backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.state_dict()

    plain = trained(watched=False)
    for watched in (trained(), trained(every=1)):
        for name, value in plain.items():
            assert torch.equal(value, watched[name]), name


def test_pieces_and_ranks_are_one_batch() -> None:
    """Products of two pieces add up, those of two ranks too: the step's loss is the mean over either.

    The ranks' figures are averaged when they are read back. All are the same numbers, divided by powers of 2.
    """
    model = both_heads()
    pieces = [batch(), batch((2, 1))]
    observer = StepObserver(model, conflict_every=1, ranks=1)
    alone = []
    for piece in pieces:
        one_step(observer, model, piece)
        alone.append(observer.figures())

    for piece in pieces:
        torch.manual_seed(1)
        with observer.piece(step=1):
            (total(model(*piece)) / 2).backward()
    accumulated = observer.figures()

    ranks = []
    for piece in pieces:
        rank = StepObserver(model, conflict_every=1, ranks=2)
        one_step(rank, model, piece)
        ranks.append(rank.figures())
    for name in PRODUCTS:
        expected = (alone[0][name] + alone[1][name]) / 4
        torch.testing.assert_close(accumulated[name], expected, rtol=1e-5, atol=1e-8)
        torch.testing.assert_close((ranks[0][name] + ranks[1][name]) / 2, expected, rtol=1e-5, atol=1e-8)


def test_no_copy_of_the_model_knows_its_observer() -> None:
    model = both_heads()
    names = set(model.state_dict())
    observer = StepObserver(model, conflict_every=1, ranks=1)
    with observer.piece(step=1):
        assert model.observer is observer
        total(model(*batch())).backward()
    assert model.observer is None and copy.deepcopy(model).observer is None
    assert set(model.state_dict()) == names
    with pytest.raises(ZeroDivisionError), observer.piece(step=1):
        raise ZeroDivisionError
    assert model.observer is None


def test_of_another_model_there_is_nothing_to_tell() -> None:
    observer = StepObserver(nn.Linear(2, 2), conflict_every=1, ranks=1)
    with observer.piece(step=1):
        pass
    assert observer.figures() == {}


@pytest.fixture
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_wrapped_models_tell_the_same(parallel: str, one_rank: None) -> None:
    """With FSDP, parameters are sharded when the adapter runs once more."""
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    plain = both_heads()
    observer = StepObserver(plain, conflict_every=1, ranks=1)
    one_step(observer, plain, batch())
    expected = observer.figures()

    model = both_heads()
    observer = StepObserver(model, conflict_every=1, ranks=1)
    if parallel == "ddp":
        replica: nn.Module = DistributedDataParallel(model)
    else:
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()  # convolutions may be channels-last, which FSDP refuses
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        replica = fully_shard(model, mesh=mesh)
        assert hasattr(next(iter(model.parameters())), "full_tensor")
    one_step(observer, replica, batch())
    found = observer.figures()
    assert found.keys() == expected.keys() == COUNTS | PRODUCTS
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7, msg=name)


def test_no_number_is_read() -> None:
    """On tensors that have none; the next test is for copies."""
    model, watch, fakes = both_heads(), NoHost(), Fakes(BACKWARD_DEVICE)
    with patch("codetr_kernels.backend._chosen", lambda *device: True), FakeTensorMode():
        fakes.model(model)
        pieces = [tuple(fakes.door(door) for door in batch())] * 2
        observer = StepObserver(model, conflict_every=1, ranks=2)
        with watch:
            for images, targets in pieces:
                with observer.piece(step=1):
                    total(model(images, targets)).backward()
            figures = observer.figures()
    assert figures.keys() == COUNTS | PRODUCTS
    assert all(value.shape == () for value in figures.values())


@pytest.mark.gpu
def test_on_a_gpu_the_device_is_asked_nothing() -> None:
    model = both_heads().cuda()
    images, targets = (to_device(door, "cuda") for door in batch())
    observer = StepObserver(model, conflict_every=1, ranks=1)
    one_step(observer, model, (images, targets))
    observer.figures()
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        one_step(observer, model, (images, targets))
        figures = observer.figures()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert figures.keys() == COUNTS | PRODUCTS
    assert all(value.isfinite() for value in figures.values())
