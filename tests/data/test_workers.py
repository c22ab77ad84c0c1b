from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import time

import pytest

from codetr.data.coco import open_split
from codetr.data.config import DataConfig, Resize
from codetr.data.loader import Loader, build_loader
from codetr.errors import UserError

CONFIG = DataConfig(augment=None, resize=Resize(size=24, max_size=64), workers=2)


@pytest.fixture
def loader(write_coco, entries) -> Loader:
    image, annotation = entries
    root = write_coco([image(n, f"{n}.png", 40, 30) for n in range(1, 13)], [annotation(1, 1, 3, [2, 3, 10, 12])])
    config = CONFIG.model_copy(update={"dir": root})
    return build_loader(open_split(config, "train"), config, split="train", batch_size=1, seed=0)


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is signalled there")
def test_a_killed_worker_is_told_of_when_a_batch_is_asked_for(loader: Loader) -> None:
    others = set(multiprocessing.active_children())  # of loaders that are still to be collected
    batches = iter(loader)
    next(batches)
    workers = {child.pid for child in set(multiprocessing.active_children()) - others}
    assert len(workers) == 2
    victim = min(pid for pid in workers if pid is not None)
    os.kill(victim, signal.SIGKILL)
    time.sleep(0.2)  # PyTorch alone would raise here, in the middle of anything
    with pytest.raises(UserError) as caught:
        list(batches)
    assert str(caught.value) == (
        f"a process that loads images was killed: DataLoader worker (pid {victim}) is killed by signal: Killed.\n"
        "  Often it is the kernel that does so, for want of memory, or because /dev/shm is too small (in a container:\n"
        "  docker run --shm-size=8g). Set data.workers, now 2, to fewer, or to 0, which loads in the training "
        "process;\n"
        "  then go on with --resume."
    )


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is signalled there")
def test_a_death_between_epochs_is_told_of_in_the_next_one(loader: Loader) -> None:
    others = set(multiprocessing.active_children())
    assert len(list(loader)) == 12
    victim = (set(multiprocessing.active_children()) - others).pop().pid
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    time.sleep(0.2)
    loader.set_epoch(1)
    with pytest.raises(UserError, match="a process that loads images was killed"):
        list(loader)


def test_a_loader_in_a_cycle_ends_its_workers_in_order(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told to end. A bare one of PyTorch would wait for them for five seconds each, and terminate them."""
    terminated: list[object] = []
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "terminate", terminated.append)
    others = set(multiprocessing.active_children())
    cycle: list[object] = [build_loader(loader.dataset, CONFIG, split="train", batch_size=1, seed=0)]
    cycle += [iter(cycle[0]), cycle]  # type: ignore[call-overload]
    next(cycle[1])  # type: ignore[call-overload]
    workers = set(multiprocessing.active_children()) - others
    assert len(workers) == 2
    del cycle
    gc.collect()
    assert terminated == []
    assert [worker.exitcode for worker in workers] == [0, 0]
