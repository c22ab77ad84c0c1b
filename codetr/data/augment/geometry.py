"""Transforms of torchvision for one image: its boxes, crowd regions and masks follow the pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from codetr.data.augment.objects import GREY, blank_masks, resize_masks, uniform


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
        size: tuple[int, int] = params["size"]
        if isinstance(inpt, tv_tensors.Mask):
            masks = inpt.as_subclass(Tensor)
            return tv_tensors.Mask(resize_masks(masks, size, blank_masks(len(masks), size)))
        if isinstance(inpt, tv_tensors.Image):
            return tv_tensors.Image(resize_image(inpt.as_subclass(Tensor), size))
        return self._call_kernel(F.resize, inpt, list(size), antialias=True)


class RandomSizeCrop(v2.Transform):
    """Crops a window whose height and width are uniform integers in [min(side, low), min(side, high)]."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.low = low
        self.high = high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        sides = _size(flat_inputs)
        window = [uniform(min(side, self.low), min(side, self.high)) for side in sides]
        corner = [uniform(0, side - extent) for side, extent in zip(sides, window, strict=True)]
        return {"top": corner[0], "left": corner[1], "height": window[0], "width": window[1]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.crop, inpt, params["top"], params["left"], params["height"], params["width"])


class LargeScaleJitter(v2.Transform):
    """Resizes to a factor uniform in [low, high] of a square, crops at random what exceeds the square, pads the rest.

    size: side of the square. With factor 1 the long side just fills it. Crops have any place with the same chance; the
    padding is on the right and at the bottom.
    Source: Ghiasi et al., arXiv 2012.07177, with the numbers of the published Co-DETR.
    """

    def __init__(self, size: int, low: float, high: float) -> None:
        super().__init__()
        self.size = size
        self.low = low
        self.high = high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        factor = self.low + (self.high - self.low) * float(torch.rand(()))
        old = _size(flat_inputs)
        size = fitted(old, factor * self.size)
        corner = tuple(uniform(0, max(0, side - self.size)) for side in size)
        return {"old": old, "size": size, "corner": corner}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        height, width = params["size"]
        top, left = params["corner"]
        canvas = (self.size, self.size)
        window = (min(height, self.size), min(width, self.size))
        plain = inpt.as_subclass(Tensor)
        if isinstance(inpt, tv_tensors.Image):
            image = torch.full((3, *canvas), GREY, dtype=torch.uint8)
            enlarged = resize_image(plain, params["size"])
            image[:, : window[0], : window[1]] = enlarged[:, top : top + window[0], left : left + window[1]]
            return tv_tensors.Image(image)
        if isinstance(inpt, tv_tensors.Mask):
            masks = blank_masks(len(plain), canvas)
            resize_masks(plain, params["size"], masks[:, : window[0], : window[1]], params["corner"])
            return tv_tensors.Mask(masks)
        old_height, old_width = params["old"]
        scale = torch.tensor([width / old_width, height / old_height]).repeat(2)
        boxes = plain * scale - torch.tensor([left, top, left, top])
        return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=canvas)  # type: ignore[call-overload]


def resized(size: tuple[int, int], short: int, longest: int) -> tuple[int, int]:
    """Height and width after the short side becomes `short`, or less if the long side would exceed `longest`."""
    factor = min(short / min(size), longest / max(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def fitted(size: tuple[int, int], longest: float) -> tuple[int, int]:
    """Height and width after the long side becomes `longest`, rounded."""
    factor = longest / max(size)
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels (3, H, W) uint8 resized to `size` (height, width): bilinear, antialiased.

    The channels of a pixel lie next to each other afterwards: so torch takes a third to a tenth of the time, for the
    same values.
    """
    interleaved = image.unsqueeze(0).contiguous(memory_format=torch.channels_last)[0]
    return F.resize(interleaved, list(size), antialias=True)


def _size(flat_inputs: list[Any]) -> tuple[int, int]:
    height, width = F.get_size(next(value for value in flat_inputs if isinstance(value, tv_tensors.Image)))
    return height, width
