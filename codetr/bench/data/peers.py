"""The recipes of others: torchvision's references, DETR's own on Pillow's images, and webdataset's reader."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from codetr.data.augment_config import Crop

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

Recipe = Callable[[Image.Image, dict[str, Any]], Any]
Collate = Callable[[Sequence[Any]], Any]


@dataclass(frozen=True)
class Annotated:
    """Files, and boxes (G, 4) xyxy with labels (G,), by image id."""

    files: dict[int, Path]
    objects: dict[int, tuple[Tensor, Tensor]]

    def target(self, image_id: int, size: tuple[int, int]) -> dict[str, Any]:
        """A fresh target as torchvision's transforms take it. size: height and width."""
        boxes, labels = self.objects[image_id]
        wrapped = tv_tensors.BoundingBoxes(boxes.clone(), format="XYXY", canvas_size=size)  # type: ignore[call-overload]
        return {"boxes": wrapped, "labels": labels.clone(), "image_id": image_id}


class Pictures(Dataset[Any]):
    """Files opened by Pillow."""

    def __init__(self, annotated: Annotated, recipe: Recipe) -> None:
        self._annotated = annotated
        self._ids = list(annotated.files)
        self._recipe = recipe

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Any:
        image_id = self._ids[index]
        with Image.open(self._annotated.files[image_id]) as opened:
            image = opened.convert("RGB")
        return self._recipe(image, self._annotated.target(image_id, (image.height, image.width)))


def shard_samples(shards: Sequence[str], annotated: Annotated, recipe: Recipe) -> Any:
    """The same out of tar files, by webdataset: shards shuffled, and 64 images within a worker."""
    import webdataset

    def finished(sample: dict[str, Any]) -> Any:
        content = next(value for key, value in sample.items() if not key.startswith("__"))
        image = Image.open(io.BytesIO(content)).convert("RGB")
        return recipe(image, annotated.target(int(sample["__key__"]), (image.height, image.width)))

    return webdataset.WebDataset(list(shards), shardshuffle=len(shards), empty_check=False).shuffle(64).map(finished)


def torchvision_recipe(scales: Sequence[int], longest: int, *, tensors: bool) -> tuple[Recipe, Collate]:
    """`multiscale` without its colours. Source: pytorch/vision references/detection/presets.py, DetectionPresetTrain.

    Images stay apart, since its models normalise and pad them.
    """
    steps: list[Any] = [v2.PILToTensor()] if tensors else []
    steps += [v2.RandomShortestSize(min_size=list(scales), max_size=longest), v2.RandomHorizontalFlip(p=0.5)]
    steps += [] if tensors else [v2.PILToTensor()]
    steps += [v2.ToDtype(torch.float, scale=True), v2.SanitizeBoundingBoxes(), v2.ToPureTensor()]
    return v2.Compose(steps), _apart


def pil_recipe(scales: Sequence[int], longest: int, crop: Crop | None) -> tuple[Recipe, Collate]:
    """Source: facebookresearch/detr datasets/coco.py make_coco_transforms, transforms.py; util/misc.py collate_fn."""
    resize = v2.RandomShortestSize(min_size=list(scales), max_size=longest)
    choice: Any = resize
    if crop is not None:
        before = v2.RandomShortestSize(min_size=list(crop.scales), max_size=crop.max_size)
        cropped = v2.Compose([before, _Window(crop.low, crop.high), resize])
        choice = v2.RandomChoice([resize, cropped], p=[1 - crop.probability, crop.probability])
    after = [v2.SanitizeBoundingBoxes(), v2.PILToTensor(), v2.ToDtype(torch.float, scale=True), v2.Normalize(MEAN, STD)]
    return v2.Compose([v2.RandomHorizontalFlip(p=0.5), choice, *after, v2.ToPureTensor()]), _padded


class _Window(v2.Transform):
    """A crop whose sides are uniform in [min(side, low), min(side, high)]."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self._low, self._high = low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        sides = F.get_size(next(value for value in flat_inputs if isinstance(value, Image.Image)))
        window = [int(torch.randint(min(s, self._low), min(s, self._high) + 1, ())) for s in sides]
        top, left = (int(torch.randint(0, s - w + 1, ())) for s, w in zip(sides, window, strict=True))
        return {"top": top, "left": left, "height": window[0], "width": window[1]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.crop, inpt, **params)


def _apart(samples: Sequence[Any]) -> Any:
    return tuple(zip(*samples, strict=True))


def _padded(samples: Sequence[Any]) -> Any:
    pictures = [image for image, _ in samples]
    height, width = (max(image.shape[axis] for image in pictures) for axis in (-2, -1))
    batch = torch.zeros(len(pictures), 3, height, width)
    mask = torch.ones(len(pictures), height, width, dtype=torch.bool)
    for index, image in enumerate(pictures):
        batch[index, :, : image.shape[1], : image.shape[2]] = image
        mask[index, : image.shape[1], : image.shape[2]] = False
    return batch, mask, [target for _, target in samples]
