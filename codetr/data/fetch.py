"""What happens in a worker: samples are read, transformed with a seed of their own, and put into batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch.utils.data import Dataset

from codetr.data.batches import sample_seed
from codetr.data.coco import CocoDataset, Sample
from codetr.data.collate import collate
from codetr.data.counted_classes import ClassDraw
from codetr.data.images import BadImage
from codetr.errors import UserError
from codetr.structures import Batch


class SampleTransform(Protocol):
    """What becomes of a sample before it joins a batch; a function of the sample and the seed."""

    def __call__(self, sample: Sample, *, seed: int) -> Sample: ...


@runtime_checkable
class MixingTransform(Protocol):
    """A transform that puts other images of the data set into a sample, as many as `companions` tells."""

    def companions(self, seed: int) -> int: ...

    def __call__(self, sample: Sample, others: Sequence[Sample] = (), *, seed: int) -> Sample: ...


COMPANIONS = -3
"""What the draw of further images is seeded with, beside the sample's seed."""


@dataclass(frozen=True)
class Item:
    """One place in a batch.

    sample: None if nothing could be put there. seed: of all that is drawn at random about it, in the model too.
    skipped: file and reason of each image left out on the way. error: a message that must stop the run; it leaves the
    worker as a value, since an exception would lose its type.
    """

    sample: Sample | None = None
    seed: int = 0
    skipped: tuple[tuple[str, str], ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Loaded:
    """Items put together. batch: None if no image of it can be used."""

    batch: Batch | None
    skipped: tuple[tuple[str, str], ...]
    error: str | None

    def pin_memory(self) -> Loaded:
        """Called by `torch.utils.data.DataLoader(pin_memory=True)`."""
        return self if self.batch is None else Loaded(self.batch.pin_memory(), self.skipped, self.error)


class Fetcher(Dataset[Item]):
    """Transformed samples, addressed by (epoch, index).

    skip: leave out images that cannot be used. stand_in: put the next usable image of the data set in their place, so
    that every batch is full; the seed stays that of the place. An index counts on past the last image from the first
    one again, with other seeds. Which further images go into a sample follows from its seed; another one always stands
    in for them.
    """

    def __init__(
        self, dataset: CocoDataset, transform: SampleTransform, *, seed: int, skip: bool, stand_in: bool
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.skip = skip
        self.stand_in = stand_in

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        seed = sample_seed(self.seed, epoch, index)
        skipped: list[tuple[str, str]] = []
        try:
            sample = self._read(index, skipped) if self.stand_in else self._attempt(index, skipped)
            if sample is None:
                return Item(skipped=tuple(skipped))
            others = [self._read(other, skipped) for other in self._companions(seed)]
        except UserError as error:
            return Item(skipped=tuple(skipped), error=str(error))
        if isinstance(self.transform, MixingTransform):
            return Item(self.transform(sample, others, seed=seed), seed, tuple(skipped))
        return Item(self.transform(sample, seed=seed), seed, tuple(skipped))

    def _companions(self, seed: int) -> list[int]:
        """Further images, each with the same chance; one may come twice, or be the sample itself."""
        count = self.transform.companions(seed) if isinstance(self.transform, MixingTransform) else 0
        if not count:
            return []
        generator = torch.Generator().manual_seed(sample_seed(seed, 0, COMPANIONS))
        drawn: list[int] = torch.randint(len(self.dataset), (count,), generator=generator).tolist()
        return drawn

    def _read(self, index: int, skipped: list[tuple[str, str]]) -> Sample:
        """The image, or the next usable one. Raises: UserError if there is none."""
        for step in range(len(self.dataset)):
            sample = self._attempt(index + step, skipped)
            if sample is not None:
                return sample
        raise UserError(f"{self.dataset.annotations}: no image can be used")

    def _attempt(self, index: int, skipped: list[tuple[str, str]]) -> Sample | None:
        """The image, or None if it is to be skipped. Raises: UserError."""
        position = index % len(self.dataset)
        try:
            return self.dataset[position]
        except BadImage as error:
            if not self.skip:
                raise UserError(f"{error}; data.on_bad_image=skip leaves such images out") from error
            skipped.append((self.dataset.infos[position].file, str(error)))
            return None


def assemble(items: Sequence[Item], *, pad_multiple: int | None = None, class_draw: ClassDraw | None = None) -> Loaded:
    """The batch of all places that hold a sample, and what to report. pad_multiple, class_draw: as in `collate`."""
    samples = [item.sample for item in items if item.sample is not None]
    seeds = [item.seed for item in items if item.sample is not None]
    errors = [item.error for item in items if item.error is not None]
    skipped = tuple(entry for item in items for entry in item.skipped)
    if errors:
        return Loaded(None, skipped, errors[0])
    batch = collate(samples, seeds=seeds, pad_multiple=pad_multiple, class_draw=class_draw) if samples else None
    return Loaded(batch, skipped, None)
