"""What becomes of a sample before it is batched: the recipes of augmentation, and the resize of evaluation.

The DETR recipe: flip; then, with probability 1/2, (a) resize the short side to one of several scales, or else (b)
resize it to a smaller one, crop, and do (a). Large-scale jitter takes the place of (a) and (b). Mosaic comes before all
of it, copy-paste and mixup after it. All that is drawn follows from the seed given with the sample, and the global
generator is left as it was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from codetr.data.augment.copy_paste import copy_paste
from codetr.data.augment.geometry import LargeScaleJitter, RandomSizeCrop, ResizeShortSide, resized
from codetr.data.augment.mixup import mixup
from codetr.data.augment.mosaic import mosaic
from codetr.data.augment.objects import GREY
from codetr.data.augment.view import View
from codetr.data.augment_config import Augment, Color, Crop
from codetr.data.batches import sample_seed
from codetr.data.coco import Sample
from codetr.data.config import DataConfig, Resize
from codetr.data.layout import SplitName

__all__ = ["DetectionTransform", "build_transform", "evaluation_resize", "normalise", "resized"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SEVERAL = -2
"""What the choice of further images is seeded with, beside the sample's seed."""

LEAST = 0.01  # px; objects of large-scale jitter are dropped below, as published
ATTEMPTS = 10  # of large-scale jitter, while it loses every object


class DetectionTransform:
    """A transform of one image, with what mixes it with others, and the normalisation by ImageNet's mean and deviation.

    several: the settings of mosaic, copy-paste and mixup. `companions` tells how many further samples a call needs.
    side: of the square that the image is filled up to with grey in the end; None: it is not.
    """

    def __init__(self, view: View | v2.Transform, several: Augment | None = None, *, side: int | None = None) -> None:
        self.view = view if isinstance(view, View) else View(view)
        self.several = Augment() if several is None else several
        self.side = side

    def companions(self, seed: int) -> int:
        """How many other samples of the data set go into the sample with this seed."""
        makes_mosaic, pastes, mixes = self._choose(seed)
        return 3 * makes_mosaic + pastes + mixes

    def __call__(self, sample: Sample, others: Sequence[Sample] = (), *, seed: int) -> Sample:
        """The transformed sample; the same seed gives the same result in any process.

        others: as many as `companions(seed)` tells, as read.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed the accelerator
            sample = self._augmented(sample, iter(others), seed)
        if self.side is not None:
            sample = _filled_up(sample, self.side)
        return replace(sample, image=normalise(sample.image))

    def _augmented(self, sample: Sample, others: Iterator[Sample], seed: int) -> Sample:
        makes_mosaic, pastes, mixes = self._choose(seed)
        settings = self.several
        if makes_mosaic and settings.mosaic is not None:
            four = [sample, next(others), next(others), next(others)]
            sample = mosaic(four, size=settings.mosaic.size, visible=settings.mosaic.visible)
        sample = self.view(sample)
        if pastes and settings.copy_paste is not None:
            sample = copy_paste(sample, self.view(next(others)), most=settings.copy_paste.max_objects)
        if mixes and settings.mixup is not None:
            sample = mixup(sample, self.view(next(others)), alpha=settings.mixup.alpha)
        return sample

    def _choose(self, seed: int) -> tuple[bool, bool, bool]:
        """Whether there is a mosaic, copy-paste, mixup. Drawn apart from the rest: asked before images are read."""
        settings = (self.several.mosaic, self.several.copy_paste, self.several.mixup)
        if settings == (None, None, None):
            return False, False, False
        draws = torch.rand(3, generator=torch.Generator().manual_seed(sample_seed(seed, 0, SEVERAL))).tolist()
        first, second, third = (
            setting is not None and draw < setting.probability for setting, draw in zip(settings, draws, strict=True)
        )
        return first, second, third


def build_transform(config: DataConfig, split: SplitName) -> DetectionTransform:
    """The recipe for training, the evaluation resize for validation (and for training if `data.augment` is null)."""
    if split == "train" and config.augment is not None:
        return DetectionTransform(_recipe(config.augment), config.augment)
    resize = config.resize
    return DetectionTransform(evaluation_resize(resize), side=resize.max_size if resize.square else None)


def evaluation_resize(config: Resize) -> v2.Transform:
    """Short side to `size`, but the longest side to `max_size` at most."""
    return ResizeShortSide((config.size,), config.max_size)


def fill_up(image: Tensor, side: int) -> Tensor:
    """Pixels (3, H, W) with grey on the right and below, up to a square of this side."""
    height, width = image.shape[-2:]
    return F.pad(image, [0, 0, side - width, side - height], fill=[float(GREY)])


def normalise(image: Tensor) -> Tensor:
    """uint8 pixels (3, H, W) to float, by the mean and deviation of ImageNet."""
    planar = image.contiguous()  # arithmetic on interleaved channels takes three times as long
    return F.normalize(
        F.to_dtype(planar, torch.float32, scale=True), list(IMAGENET_MEAN), list(IMAGENET_STD), inplace=True
    )


def _filled_up(sample: Sample, side: int) -> Sample:
    height, width = sample.image.shape[-2:]
    masks = None if sample.masks is None else F.pad(sample.masks, [0, 0, side - width, side - height])
    info = replace(sample.info, content=(height, width))
    return replace(sample, image=fill_up(sample.image, side), masks=masks, info=info)


def _recipe(config: Augment) -> View:
    steps: list[v2.Transform] = [v2.RandomHorizontalFlip(config.flip), v2.RandomVerticalFlip(config.vertical_flip)]
    if config.color is not None:
        steps.append(_color(config.color))
    if config.jitter is not None:
        jitter = LargeScaleJitter(config.jitter.size, config.jitter.low, config.jitter.high)
        return View(v2.Compose([*steps, jitter]), least=LEAST, tight=True, attempts=ATTEMPTS)
    resize = ResizeShortSide(config.scales, config.max_size)
    return View(v2.Compose([*steps, resize if config.crop is None else _with_crop(resize, config.crop)]))


def _with_crop(resize: v2.Transform, config: Crop) -> v2.Transform:
    before = ResizeShortSide(config.scales, config.max_size)
    cropped = v2.Compose([before, RandomSizeCrop(config.low, config.high), resize])
    return v2.RandomChoice([resize, cropped], p=[1 - config.probability, config.probability])


def _color(config: Color) -> v2.Transform:
    jitter = v2.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue)
    return v2.RandomApply([jitter], p=config.probability)
