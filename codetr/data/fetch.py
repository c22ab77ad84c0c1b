"""What happens in a worker: samples are read, transformed with a seed of their own, and put into batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.utils.data import Dataset

from codetr.data.batches import sample_seed
from codetr.data.coco import CocoDataset, Sample
from codetr.data.collate import collate
from codetr.data.images import BadImage
from codetr.errors import UserError
from codetr.structures import Batch

if TYPE_CHECKING:  # imports torchvision, which is slow
    from codetr.data.transforms import DetectionTransform


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
    that every batch is full; the seed stays that of the place.
    """

    def __init__(
        self, dataset: CocoDataset, transform: DetectionTransform, *, seed: int, skip: bool, stand_in: bool
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.skip = skip
        self.stand_in = stand_in

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        skipped: list[tuple[str, str]] = []
        for step in range(len(self.dataset) if self.stand_in else 1):
            position = (index + step) % len(self.dataset)
            try:
                sample = self.dataset[position]
            except BadImage as error:
                if not self.skip:
                    return Item(error=f"{error}; data.on_bad_image=skip leaves such images out")
                skipped.append((self.dataset.infos[position].file, str(error)))
                continue
            except UserError as error:
                return Item(error=str(error))
            seed = sample_seed(self.seed, epoch, index)
            return Item(self.transform(sample, seed=seed), seed, tuple(skipped))
        nothing = f"{self.dataset.annotations}: no image can be used" if self.stand_in else None
        return Item(skipped=tuple(skipped), error=nothing)


def assemble(items: Sequence[Item], *, pad_multiple: int | None = None) -> Loaded:
    """The batch of all places that hold a sample, and what to report. pad_multiple: as in `collate`."""
    samples = [item.sample for item in items if item.sample is not None]
    seeds = [item.seed for item in items if item.sample is not None]
    errors = [item.error for item in items if item.error is not None]
    skipped = tuple(entry for item in items for entry in item.skipped)
    if errors:
        return Loaded(None, skipped, errors[0])
    batch = collate(samples, seeds=seeds, pad_multiple=pad_multiple) if samples else None
    return Loaded(batch, skipped, None)
