"""The readers that are measured. Each yields, epoch by epoch, how many images its batches hold."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import DataLoader

from codetr.bench.data.peers import Annotated, Pictures, pil_recipe, shard_samples, torchvision_recipe
from codetr.data import images
from codetr.data.coco import open_split
from codetr.data.config import DataConfig
from codetr.data.loader import build_loader
from codetr.data.shards import shard_name

BASELINE = "codetr, files"


class Reader(Protocol):
    """A loader with its processes, which start with the first epoch."""

    def epoch(self, number: int) -> Iterator[int]: ...


@dataclass(frozen=True)
class Task:
    """What all of them load. files, shards: the same images in both forms."""

    files: DataConfig
    shards: DataConfig
    batch_size: int
    workers: int

    @property
    def shard_files(self) -> list[str]:
        assert self.shards.dir is not None
        folder = self.shards.dir / "shards" / "train"
        return [str(folder / shard_name(number)) for number in range(len(list(folder.glob("*.tar"))))]


@dataclass(frozen=True)
class Subject:
    """A way to read. note: what it does, for the table. make: called anew in each round."""

    name: str
    note: str
    make: Callable[[], Reader]


class _Ours:
    def __init__(self, config: DataConfig, task: Task) -> None:
        config = config.model_copy(update={"workers": task.workers})
        self._loader = build_loader(
            open_split(config, "train"), config, split="train", batch_size=task.batch_size, seed=0
        )

    def epoch(self, number: int) -> Iterator[int]:
        self._loader.set_epoch(number)
        for batch in self._loader:
            yield len(batch.infos)


class _WithPillow(_Ours):
    def epoch(self, number: int) -> Iterator[int]:
        with _without_simplejpeg():
            yield from super().epoch(number)


class _Peer:
    def __init__(self, dataset: Any, task: Task, collate: Callable[[Any], Any], *, shuffle: bool | None = True) -> None:
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size=task.batch_size,
            shuffle=shuffle,
            num_workers=task.workers,
            collate_fn=collate,
            persistent_workers=task.workers > 0,
            drop_last=True,
        )

    def epoch(self, number: int) -> Iterator[int]:
        for batch in self._loader:
            yield len(batch[0])


def subjects(task: Task, annotated: Annotated) -> tuple[list[Subject], dict[str, str]]:
    """Those that can be measured here, and why the others cannot."""
    augment = task.files.augment
    scales, longest = (augment.scales, augment.max_size) if augment is not None else ((800,), 1333)
    absent: dict[str, str] = {}
    found = [
        Subject(BASELINE, "the recipe of the spec, one file an image", lambda: _Ours(task.files, task)),
        Subject("codetr, shards", "the same out of tar files", lambda: _Ours(task.shards, task)),
    ]
    if images._simplejpeg() is None:
        absent["codetr, Pillow"] = "simplejpeg is not installed, so that all of codetr's are with Pillow"
    else:
        found.append(Subject("codetr, Pillow", "files, without simplejpeg", lambda: _WithPillow(task.files, task)))

    def torchvision(*, tensors: bool) -> Reader:
        recipe, collate = torchvision_recipe(scales, longest, tensors=tensors)
        return _Peer(Pictures(annotated, recipe), task, collate)

    def plain() -> Reader:
        recipe, collate = pil_recipe(scales, longest, None if augment is None else augment.crop)
        return _Peer(Pictures(annotated, recipe), task, collate)

    def webdataset() -> Reader:
        recipe, collate = torchvision_recipe(scales, longest, tensors=True)
        return _Peer(shard_samples(task.shard_files, annotated, recipe), task, collate, shuffle=None)

    found += [
        Subject(
            "torchvision, tensors",
            "its references' multiscale preset, transforms v2 on tensors: resize, flip; no crop, padding or mean",
            lambda: torchvision(tensors=True),
        ),
        Subject("torchvision, PIL", "the same preset on Pillow's images", lambda: torchvision(tensors=False)),
        Subject("plain PIL", "DETR's recipe on Pillow's images: flip, resize or crop, mean, padding", plain),
    ]
    if importlib.util.find_spec("webdataset") is None:
        absent["webdataset"] = "not installed"
    else:
        found.append(Subject("webdataset", "torchvision's preset on tensors, out of the same tar files", webdataset))
    return found, absent


def annotated_pictures(config: DataConfig) -> Annotated:
    """The images of the peers: those of the training split."""
    dataset = open_split(config, "train")
    rows = {info.image_id: row for row, info in enumerate(dataset.infos)}
    files = {image_id: Path(dataset.infos[row].file) for image_id, row in rows.items()}
    return Annotated(files, {image_id: dataset.objects(row) for image_id, row in rows.items()})


@contextmanager
def _without_simplejpeg() -> Iterator[None]:
    """Processes that are forked inside decode with Pillow."""
    found = images._simplejpeg
    images._simplejpeg = lambda: None  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        images._simplejpeg = found
