"""Batches of a data set: seeded, sharded over ranks, resumable in the middle of an epoch, the same for any workers."""

from __future__ import annotations

import gc
import os
import sys
import warnings
import weakref
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch.utils.data import DataLoader

from codetr.data.batches import evaluation_batches, training_batches
from codetr.data.coco import CocoDataset
from codetr.data.config import DataConfig
from codetr.data.counted_classes import ClassDraw
from codetr.data.fetch import Fetcher, Item, Loaded, SampleTransform, assemble
from codetr.data.layout import SplitName
from codetr.data.sampling import epoch_order, repeat_factors
from codetr.data.workers import DEATHS, obey_parent_only
from codetr.errors import Notice, UserError
from codetr.structures import Batch

MOST_WORKERS = 4


class SkippedImage(Notice):
    """An image was left out because it cannot be used. Shown once for each file."""


class EpochPlan:
    """The keys (epoch, index) of every batch of one rank's epoch, from a given batch on.

    ratios, shards, factors: of each image, width over height, its shard, and how often it comes in a training epoch.
    """

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
        accumulate: int,
        shards: Sequence[int] | None = None,
        factors: Sequence[float] | None = None,
    ) -> None:
        self._ratios = ratios
        self._shards = shards
        self._factors = factors
        self._config = config
        self._split = split
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._accumulate = accumulate
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        if self._split == "train":
            order = None if self._factors is None else epoch_order(self._factors, seed=self._seed, epoch=epoch)
            batches = training_batches(
                self._ratios,
                batch_size=self._batch_size,
                seed=self._seed,
                epoch=epoch,
                rank=self._rank,
                world_size=self._world_size,
                accumulate=self._accumulate,
                group_by_shape=self._config.group_by_shape,
                drop_last=self._config.drop_last,
                order=order,
                shards=self._shards,
                shuffle_shards=self._config.shuffle_shards,
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


class Loader:
    """The batches of one rank's epoch. Made by `build_loader`.

    Call `set_epoch` before each epoch. `len()` is the number of batches in a whole epoch, wherever it starts.
    skipped: the reason, by file, of every image left out so far (`data.on_bad_image=skip`).
    """

    def __init__(
        self,
        fetcher: Fetcher,
        plan: EpochPlan,
        *,
        workers: int,
        pad_multiple: int | None,
        class_draw: ClassDraw | None = None,
    ) -> None:
        self.dataset = fetcher.dataset
        self.skipped: dict[str, str] = {}
        self._started = False
        self._plan = plan
        self._batches: DataLoader[Item] = DataLoader(
            fetcher,
            batch_sampler=plan,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=partial(assemble, pad_multiple=pad_multiple, class_draw=class_draw),
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=obey_parent_only,
            # A generator of its own: the default would draw from the global one, which belongs to training.
            generator=torch.Generator().manual_seed(fetcher.seed),
        )
        # It must not be collected as part of a cycle: its pipes might go first, and it would wait five seconds for each
        # worker that it can no longer tell to end. So there is a reference from outside, until this object goes.
        weakref.finalize(self, _let_go, self._batches).atexit = False

    @property
    def workers(self) -> int:
        """Processes that load images; 0 if the training process does."""
        return self._batches.num_workers

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Chooses the epoch and its first batch to be yielded: resuming there gives exactly the batches that remain."""
        self._plan.set_epoch(epoch, start_batch)

    def __len__(self) -> int:
        return len(self._plan.batches)

    def __iter__(self) -> Iterator[Batch]:
        """Raises: UserError for an image that cannot be used, unless it is to be skipped (warning `SkippedImage`); and
        if a worker was killed, at the batch that is asked for next.
        """
        for loaded in self._loaded():
            for file, reason in loaded.skipped:
                if file not in self.skipped:
                    self.skipped[file] = reason
                    warnings.warn(f"left out: {reason}", SkippedImage, stacklevel=2)
            if loaded.error is not None:
                raise UserError(loaded.error)
            if loaded.batch is not None:
                yield loaded.batch

    def _loaded(self) -> Iterator[Loaded]:
        if not self._batches.num_workers:
            yield from self._batches
            return
        batches: Iterator[Loaded] | None = None
        if not self._started:
            gc.collect()  # a loader that was given up would be collected in the new processes, too, and disturb them
            self._started = True
        while True:
            try:
                with DEATHS.heard():
                    batches = iter(self._batches) if batches is None else batches
                    loaded = next(batches, None)
            except RuntimeError as error:
                if not str(error).startswith("DataLoader worker"):
                    raise
                raise UserError(
                    f"a process that loads images was killed: {str(error).strip()}\n{self._advice()}"
                ) from error
            if loaded is None:
                return
            yield loaded

    def _advice(self) -> str:
        return (
            "  Often it is the kernel that does so, for want of memory, or because /dev/shm is too small (in a "
            "container:\n  docker run --shm-size=8g). Set data.workers, now "
            f"{self._batches.num_workers}, to fewer, or to 0, which loads in the training process;\n"
            "  then go on with --resume."
        )


def _let_go(batches: DataLoader[Item]) -> None:
    """The reference is what matters."""


def build_loader(
    dataset: CocoDataset,
    config: DataConfig,
    *,
    split: SplitName,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    accumulate: int = 1,
    transform: SampleTransform | None = None,
) -> Loader:
    """The loader of one rank.

    split: `train` shuffles, augments, and gives every rank the same number of full batches; `val` keeps a fixed order
    and gives each image to exactly one rank. batch_size: images a batch of one rank. accumulate: batches in a row that
    make one step of training; `val` has no such thing. The images of a step depend on `seed`, the epoch and how many
    they are, never on their division among ranks and batches, nor on the number of workers. transform: in place of the
    one that `config` asks for.
    """
    from codetr.data.transforms import build_transform  # imports torchvision, which is slow

    fetcher = Fetcher(
        dataset,
        transform or build_transform(config, split),
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
        accumulate=accumulate,
        shards=dataset.shard_numbers() if split == "train" else None,
        factors=_factors(dataset, config) if split == "train" else None,
    )
    return Loader(
        fetcher,
        plan,
        workers=worker_count(config),
        pad_multiple=config.pad_multiple,
        class_draw=_class_draw(dataset, config) if split == "train" else None,
    )


def _factors(dataset: CocoDataset, config: DataConfig) -> list[float] | None:
    if config.repeat is None:
        return None
    return repeat_factors(dataset.image_classes(), threshold=config.repeat.threshold)


def _class_draw(dataset: CocoDataset, config: DataConfig) -> ClassDraw | None:
    if config.federated is None:
        return None
    return ClassDraw.of(
        dataset.image_classes(),
        config.federated,
        num_classes=len(dataset.classes),
        not_exhaustive=dataset.not_exhaustive,
    )


def worker_count(config: DataConfig) -> int:
    """How many processes load images by these settings on this machine."""
    if config.workers is not None:
        return config.workers
    available = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(MOST_WORKERS, available)
