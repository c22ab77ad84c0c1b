"""What the steps are fed: the batches of a spec's own data, or rendered images that stay in memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from codetr.data.coco import Sample, open_split
from codetr.data.collate import collate
from codetr.data.loader import build_loader
from codetr.data.prepare import prepare
from codetr.data.scene import Scene, compose
from codetr.errors import UserError
from codetr.spec import Spec
from codetr.structures import Batch, ImageInfo

CLASSES = 80
"""Of a detector that is fed rendered images: as many as COCO has."""

DISTINCT = 4
"""Rendered batches; they come again and again."""

OBJECTS = (1, 20)


class Source(Protocol):
    """classes: how many the labels have. note: for the reader."""

    classes: int
    note: str

    def batches(self, first: int) -> Iterator[Batch]:
        """Batches from the first-th on, without end; the same ones for the same number."""


def open_source(spec: Spec, size: tuple[int, int] | None, *, pinned: bool) -> Source:
    """size: height and width of rendered images; None takes the data of the spec.

    Raises: UserError if the batch cannot be divided, or the data cannot be used.
    """
    if spec.train.batch_size % spec.train.accumulate:
        raise UserError(
            f"train.batch_size: {spec.train.batch_size} images cannot be divided into train.accumulate="
            f"{spec.train.accumulate} pieces; use a multiple of it."
        )
    images = spec.train.batch_size // spec.train.accumulate
    if size is None:
        return LoaderSource(spec, images)
    return RenderedSource(size, images, masks=spec.data.masks, pinned=pinned)


class LoaderSource:
    """The training split through the training loader, epoch after epoch."""

    def __init__(self, spec: Spec, images: int) -> None:
        prepare(spec.data)
        data = open_split(spec.data, "train")
        self.classes = len(data.classes)
        self.note = f"{data.annotations}, {len(data)} images"
        train = spec.train
        self._loader = build_loader(
            data, spec.data, split="train", batch_size=images, seed=train.seed, accumulate=train.accumulate
        )

    def batches(self, first: int) -> Iterator[Batch]:
        epoch, start = divmod(first, len(self._loader))
        for number in itertools.count(epoch):
            self._loader.set_epoch(number, start_batch=start if number == epoch else 0)
            yield from self._loader


class RenderedSource:
    """A few batches of scenes of one size."""

    def __init__(self, size: tuple[int, int], images: int, *, masks: bool, pinned: bool) -> None:
        self.classes = CLASSES
        self.note = f"rendered images of {size[0]} x {size[1]}, in memory: data cost nothing"
        made = [collate([_sample(size, b * images + i, masks) for i in range(images)]) for b in range(DISTINCT)]
        self._batches = [batch.pin_memory() for batch in made] if pinned else made

    def batches(self, first: int) -> Iterator[Batch]:
        for number in itertools.count(first):
            yield self._batches[number % DISTINCT]


def _sample(size: tuple[int, int], number: int, masks: bool) -> Sample:
    from codetr.data.transforms import normalise  # imports torchvision, which is slow

    height, width = size
    scene = compose(np.random.default_rng(number), max(size), objects=OBJECTS, clutter=1.0, crowd=False)
    pixels = torch.from_numpy(scene.pixels[:height, :width].copy()).permute(2, 0, 1)
    seen, labels = _objects(scene, size)
    info = ImageInfo(number, f"rendered {number}", size)
    none = torch.zeros(0, 4)
    return Sample(normalise(pixels), _boxes(seen), labels, none, seen if masks else None, info)


def _objects(scene: Scene, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Masks (G, H, W) and labels (G,) of what a picture that is cut to a size still shows."""
    height, width = size
    shown = [(item.mask[:height, :width], item.label) for item in scene.objects]
    shown = [(mask, label) for mask, label in shown if mask.any()]
    masks = np.stack([mask for mask, _ in shown]) if shown else np.zeros((0, height, width), dtype=bool)
    return torch.from_numpy(masks), torch.tensor([label for _, label in shown], dtype=torch.int64)


def _boxes(masks: Tensor) -> Tensor:
    """(G, 4) xyxy of masks (G, H, W), none of which is empty."""
    from torchvision.ops import masks_to_boxes

    # Its corners are the outermost pixels, both included.
    return masks_to_boxes(masks).float() + torch.tensor([0.0, 0.0, 1.0, 1.0])
