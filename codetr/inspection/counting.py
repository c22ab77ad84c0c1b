"""How many positives each head finds in images, without running the base."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from codetr.models.heads.contract import Head
from codetr.structures import Batch, Pyramid


@dataclass(frozen=True)
class Count:
    """positives: of a head in all images. images, objects: how many there were."""

    positives: int
    images: int
    objects: int

    @property
    def of_image(self) -> float:
        return self.positives / max(1, self.images)

    @property
    def of_object(self) -> float:
        return self.positives / max(1, self.objects)


def random_pyramid(batch: Batch, strides: Sequence[int], *, dim: int) -> Pyramid:
    """Features from N(0, 1), of the shapes that the base would give, by torch's default generator."""
    height, width = batch.images.pixels.shape[2:]
    count = len(batch.images.pixels)
    maps = [torch.randn(count, dim, math.ceil(height / stride), math.ceil(width / stride)) for stride in strides]
    return Pyramid(tuple(maps), tuple(strides), batch.images.sizes)


@torch.no_grad()
def count_positives(
    heads: dict[str, Head], batches: Iterable[Batch], strides: Sequence[int], *, dim: int, seed: int = 0
) -> dict[str, Count]:
    """The positives that heads hand over, on random features.

    Assignment by anchors, points and boxes alone (ATSS, FCOS, RetinaNet) does not look at features. What does, a second
    stage by its proposals and PAA by its losses, finds here what it finds at the start of training.
    """
    found, images, objects = dict.fromkeys(heads, 0), 0, 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for batch in batches:
            pyramid = random_pyramid(batch, strides, dim=dim)
            images, objects = images + len(batch.infos), objects + sum(batch.targets.counts)
            for name, head in heads.items():
                positives = head(pyramid, batch.targets).positives
                # With `fill: negatives` background is handed over too.
                found[name] += int((positives.valid & (positives.targets != 0).any(2)).sum())
    return {name: Count(number, images, objects) for name, number in found.items()}
