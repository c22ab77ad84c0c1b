"""Batches of a data set: seeded, sharded over ranks, resumable in the middle of an epoch, the same for any workers."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader

from codetr.data.batches import evaluation_batches, training_batches
from codetr.data.coco import CocoDataset
from codetr.data.config import DataConfig
from codetr.data.fetch import Fetcher, Item, Loaded, assemble
from codetr.data.layout import SplitName
from codetr.errors import Notice, UserError
from codetr.structures import Batch

MOST_WORKERS = 4


class SkippedImage(Notice):
    """An image was left out because it cannot be used. Shown once for each file."""


class EpochPlan:
    """The keys (epoch, index) of every batch of one rank's epoch, from a given batch on."""

    def __init__(
        self,
        ratios: Sequence[float],
        config: DataConfig,
        *,
        split: SplitName,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        self._ratios = ratios
        self._config = config
        self._split = split
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        if self._split == "train":
            batches = training_batches(
                self._ratios,
                batch_size=self._batch_size,
                seed=self._seed,
                epoch=epoch,
                rank=self._rank,
                world_size=self._world_size,
                group_by_shape=self._config.group_by_shape,
                drop_last=self._config.drop_last,
            )
        else:
            batches = evaluation_batches(
                self._ratios,
                batch_size=self._batch_size,
                rank=self._rank,
                world_size=self._world_size,
                group_by_shape=self._config.group_by_shape,
            )
        if not 0 <= start_batch <= len(batches):
            raise ValueError(f"start_batch is {start_batch}, but the epoch has {len(batches)} batches")
        self.epoch = epoch
        self.batches = batches
        self.start = start_batch

    def __len__(self) -> int:
        return len(self.batches) - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.batches[self.start :]:
            yield [(self.epoch, index) for index in batch]


def _obey_parent_only(worker: int) -> None:
    """Set up a worker: SIGTERM ends it if its parent sends it, and is ignored otherwise (on Linux).

    A launcher signals every process of a run; the training process decides when to stop, and needs its workers. But it
    ends them by the same signal: when a loader is given up in the middle of an epoch, and at an exit by an exception.
    """
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_await_termination, args=(os.getppid(),), daemon=True).start()


def _await_termination(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


class Loader:
    """The batches of one rank's epoch. Made by `build_loader`.

    Call `set_epoch` before each epoch. `len()` is the number of batches in a whole epoch, wherever it starts.
    skipped: the reason, by file, of every image left out so far (`data.on_bad_image=skip`).
    """

    def __init__(self, fetcher: Fetcher, plan: EpochPlan, *, workers: int) -> None:
        self.dataset = fetcher.dataset
        self.skipped: dict[str, str] = {}
        self._plan = plan
        self._batches: DataLoader[Item] = DataLoader(
            fetcher,
            batch_sampler=plan,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=assemble,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_obey_parent_only,
            # A generator of its own: the default would draw from the global one, which belongs to training.
            generator=torch.Generator().manual_seed(fetcher.seed),
        )

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Chooses the epoch and its first batch to be yielded: resuming there gives exactly the batches that remain."""
        self._plan.set_epoch(epoch, start_batch)

    def __len__(self) -> int:
        return len(self._plan.batches)

    def __iter__(self) -> Iterator[Batch]:
        """Raises: UserError for an image that cannot be used, unless it is to be skipped (warning `SkippedImage`)."""
        loaded: Loaded
        for loaded in self._batches:
            for file, reason in loaded.skipped:
                if file not in self.skipped:
                    self.skipped[file] = reason
                    warnings.warn(f"left out: {reason}", SkippedImage, stacklevel=2)
            if loaded.error is not None:
                raise UserError(loaded.error)
            if loaded.batch is not None:
                yield loaded.batch


def build_loader(
    dataset: CocoDataset,
    config: DataConfig,
    *,
    split: SplitName,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> Loader:
    """The loader of one rank.

    split: `train` shuffles, augments, and gives every rank the same number of full batches; `val` keeps a fixed order
    and gives each image to exactly one rank. batch_size: images a batch of one rank. The batches depend on `seed`, the
    epoch, `rank` and `world_size`, never on the number of workers.
    """
    from codetr.data.transforms import build_transform  # imports torchvision, which is slow

    fetcher = Fetcher(
        dataset,
        build_transform(config, split),
        seed=seed,
        skip=config.on_bad_image == "skip",
        stand_in=split == "train",
    )
    plan = EpochPlan(
        dataset.aspect_ratios(),
        config,
        split=split,
        batch_size=batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
    return Loader(fetcher, plan, workers=_worker_count(config))


def _worker_count(config: DataConfig) -> int:
    if config.workers is not None:
        return config.workers
    available = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(MOST_WORKERS, available)
