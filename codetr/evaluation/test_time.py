"""Test-time augmentation: the images of a batch at several sizes, as they are and mirrored, and their detections fused.

The detector is given images in the pixels of their files and resizes them itself: a size is then made from the file's
pixels and not from those of another size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codetr.data.coco import Sample
from codetr.evaluation.fusion import fuse
from codetr.evaluation.test_time_config import TestTime
from codetr.structures import Detections, ImageBatch

if TYPE_CHECKING:
    from codetr.evaluation.runner import Detector


class TestTimeDetector:
    """Predicts as `model` does, from several passes over each image.

    model: in evaluation it is given batches of images of one size, so that nothing is padded but to `pad_multiple`.
    """

    __test__ = False  # no test, whatever its name says to pytest

    def __init__(self, model: Detector, settings: TestTime, *, pad_multiple: int | None = None) -> None:
        self.model, self.settings, self.pad_multiple = model, settings, pad_multiple
        self.training, self.heads = model.training, model.heads

    def train(self, mode: bool = True) -> TestTimeDetector:
        self.model.train(mode)
        self.training = mode
        return self

    @torch.no_grad()
    def predict(self, images: ImageBatch, *, branch: str = "detr", max_detections: int = 100) -> list[Detections]:
        """The best `max_detections` of each image, in pixels of its file.

        images: uint8, as read (`as_read`); on the device that the model is on, where they are resized.
        """
        if images.pixels.dtype != torch.uint8:
            raise ValueError(f"test-time augmentation takes pixels as they are read, uint8, not {images.pixels.dtype}")
        pictures = list(crops(images))
        found: list[list[Detections]] = [[] for _ in pictures]
        for scale in self.settings.scales:
            prepared = [evaluation_pixels(picture, scale, self.settings.max_size) for picture in pictures]
            for mirrored in (False, True) if self.settings.flip else (False,):
                turned = [pixels.flip(-1) for pixels in prepared] if mirrored else prepared
                for index, detections in self._detect(turned, branch, max_detections):
                    size, original = turned[index].shape[-2:], pictures[index].shape[-2:]
                    in_file = detections.rescale((size[0], size[1]), (original[0], original[1]))
                    found[index].append(_mirrored(in_file, original[1]) if mirrored else in_file)
        if self.settings.passes == 1:
            return [detections for (detections,) in found]
        return [fuse(passes, self.settings, limit=max_detections) for passes in found]

    def _detect(self, images: Sequence[Tensor], branch: str, max_detections: int) -> Iterator[tuple[int, Detections]]:
        """Number and detections of each image, computed together with those of its size."""
        alike: dict[torch.Size, list[int]] = {}
        for index, image in enumerate(images):
            alike.setdefault(image.shape, []).append(index)
        for indices in alike.values():
            batch = batch_of([images[index] for index in indices], pad_multiple=self.pad_multiple)
            yield from zip(
                indices, self.model.predict(batch, branch=branch, max_detections=max_detections), strict=True
            )


def as_read(sample: Sample, *, seed: int) -> Sample:
    """In place of the transform of a loader: the pixels of the file, for a detector that resizes them itself."""
    return sample


def evaluation_pixels(pixels: Tensor, short: int, longest: int, *, square: bool = False) -> Tensor:
    """Pixels of a file, (3, H, W) uint8, as a model takes them: resized as for evaluation, normalised.

    square: filled up with grey to a square of the longest side.
    """
    from torchvision.transforms.v2 import functional as F  # slow to import

    from codetr.data.transforms import fill_up, normalise, resized

    size = resized((pixels.shape[-2], pixels.shape[-1]), short, longest)
    fitting = F.resize(pixels, list(size), antialias=True)
    return normalise(fill_up(fitting, longest) if square else fitting)


def batch_of(images: Sequence[Tensor], *, pad_multiple: int | None = None) -> ImageBatch:
    """Images of one size, (3, H, W) each, as a batch on their device."""
    height, width = images[0].shape[-2:]
    step = pad_multiple or 1
    padded = (-(-height // step) * step, -(-width // step) * step)
    pixels = images[0].new_zeros(len(images), 3, *padded)
    pixels[..., :height, :width] = torch.stack(list(images))
    padding = torch.ones(len(images), *padded, dtype=torch.bool, device=pixels.device)
    padding[:, :height, :width] = False
    sizes = torch.tensor([[height, width]], dtype=torch.float32).expand(len(images), 2)
    return ImageBatch(pixels, padding, sizes.to(pixels.device))


def crops(images: ImageBatch) -> Iterator[Tensor]:
    """The images of a batch without their padding."""
    for pixels, (height, width) in zip(images.pixels, images.sizes.long().tolist(), strict=True):
        yield pixels[:, :height, :width]


def _mirrored(found: Detections, width: int) -> Detections:
    """Detections of the mirror image of one of this width."""
    left, top, right, bottom = found.boxes.unbind(-1)
    masks = None if found.mask_crops is None else found.mask_crops.flip(-1)
    return replace(found, boxes=torch.stack([width - right, top, width - left, bottom], -1), mask_crops=masks)
