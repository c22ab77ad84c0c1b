"""The DETR augmentation recipe, on tensors, with torchvision's transforms.

Flip; then, with probability 1/2, (a) resize the short side to one of several scales, or else (b) resize it to a smaller
one, crop, and do (a). The chance of every transform comes from the seed given with the sample, and the global generator
is left as it was found.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from codetr.data.augment_config import Augment, Color, Crop
from codetr.data.coco import Sample
from codetr.data.config import DataConfig, Resize
from codetr.data.layout import SplitName

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class DetectionTransform:
    """A torchvision transform applied to a whole sample: boxes, crowd regions and masks follow the pixels.

    Afterwards boxes are clipped to the image, those without area are dropped with their labels and masks, and the image
    is normalised by the ImageNet mean and deviation.
    """

    def __init__(self, transform: v2.Transform) -> None:
        self.transform = transform

    def __call__(self, sample: Sample, *, seed: int) -> Sample:
        """The transformed sample; the same seed gives the same result in any process."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed the accelerator
            tree = self.transform(_to_tree(sample))
        return _from_tree(tree, sample)


def build_transform(config: DataConfig, split: SplitName) -> DetectionTransform:
    """The recipe for training, the evaluation resize for validation (and for training if `data.augment` is null)."""
    if split == "train" and config.augment is not None:
        return DetectionTransform(_recipe(config.augment))
    return DetectionTransform(evaluation_resize(config.resize))


def evaluation_resize(config: Resize) -> v2.Transform:
    """Short side to `size`, but the longest side to `max_size` at most."""
    return ResizeShortSide((config.size,), config.max_size)


def normalise(image: Tensor) -> Tensor:
    """uint8 pixels (3, H, W) to float, by the mean and deviation of ImageNet."""
    return F.normalize(
        F.to_dtype(image, torch.float32, scale=True), list(IMAGENET_MEAN), list(IMAGENET_STD), inplace=True
    )


class ResizeShortSide(v2.Transform):
    """Resizes the short side to one of `scales`, drawn uniformly, with the long side at `max_size` at most."""

    def __init__(self, scales: tuple[int, ...], max_size: int) -> None:
        super().__init__()
        self.scales = scales
        self.max_size = max_size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        scale = self.scales[int(torch.randint(len(self.scales), ()))]
        return {"size": resized(_size(flat_inputs), scale, self.max_size)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.resize, inpt, list(params["size"]), antialias=True)


class RandomSizeCrop(v2.Transform):
    """Crops a window whose height and width are uniform integers in [min(side, low), min(side, high)]."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.low = low
        self.high = high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        sides = _size(flat_inputs)
        window = [_uniform(min(side, self.low), min(side, self.high)) for side in sides]
        corner = [_uniform(0, side - extent) for side, extent in zip(sides, window, strict=True)]
        return {"top": corner[0], "left": corner[1], "height": window[0], "width": window[1]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.crop, inpt, params["top"], params["left"], params["height"], params["width"])


def resized(size: tuple[int, int], short: int, longest: int) -> tuple[int, int]:
    """Height and width after the short side becomes `short`, or less if the long side would exceed `longest`."""
    factor = min(short / min(size), longest / max(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def _recipe(config: Augment) -> v2.Transform:
    resize = ResizeShortSide(config.scales, config.max_size)
    steps: list[v2.Transform] = [v2.RandomHorizontalFlip(config.flip), v2.RandomVerticalFlip(config.vertical_flip)]
    if config.color is not None:
        steps.append(_color(config.color))
    return v2.Compose([*steps, resize if config.crop is None else _with_crop(resize, config.crop)])


def _with_crop(resize: v2.Transform, config: Crop) -> v2.Transform:
    before = ResizeShortSide(config.scales, config.max_size)
    cropped = v2.Compose([before, RandomSizeCrop(config.low, config.high), resize])
    return v2.RandomChoice([resize, cropped], p=[1 - config.probability, config.probability])


def _color(config: Color) -> v2.Transform:
    jitter = v2.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue)
    return v2.RandomApply([jitter], p=config.probability)


def _to_tree(sample: Sample) -> dict[str, Any]:
    size = (sample.image.shape[-2], sample.image.shape[-1])
    tree: dict[str, Any] = {
        "image": tv_tensors.Image(sample.image),
        "boxes": tv_tensors.BoundingBoxes(sample.boxes, format="XYXY", canvas_size=size),  # type: ignore[call-overload]
        "ignore": tv_tensors.BoundingBoxes(sample.ignore_boxes, format="XYXY", canvas_size=size),  # type: ignore[call-overload]
    }
    if sample.masks is not None:
        tree["masks"] = tv_tensors.Mask(sample.masks)
    return tree


def _from_tree(tree: dict[str, Any], sample: Sample) -> Sample:
    boxes, keep = _tidy(tree["boxes"])
    ignore_boxes, _ = _tidy(tree["ignore"])
    masks = None if sample.masks is None else tree["masks"].as_subclass(Tensor)[keep]
    image = normalise(tree["image"].as_subclass(Tensor))
    return replace(sample, image=image, boxes=boxes, labels=sample.labels[keep], ignore_boxes=ignore_boxes, masks=masks)


def _tidy(boxes: tv_tensors.BoundingBoxes) -> tuple[Tensor, Tensor]:
    """Boxes clipped to the image, those without area left out, and which ones were kept."""
    height, width = boxes.canvas_size
    plain = boxes.as_subclass(Tensor)
    plain = torch.stack([plain[:, 0::2].clamp(0, width), plain[:, 1::2].clamp(0, height)], dim=-1).flatten(1)
    keep = ((plain[:, 2:] - plain[:, :2]) > 0).all(dim=1)
    return plain[keep], keep


def _size(flat_inputs: list[Any]) -> tuple[int, int]:
    height, width = F.get_size(next(value for value in flat_inputs if isinstance(value, tv_tensors.Image)))
    return height, width


def _uniform(low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, ()))
