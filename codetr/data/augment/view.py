"""One image under a transform of torchvision, with all that is annotated in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from codetr.data.augment.objects import clip, take, tight_boxes
from codetr.data.coco import Sample


class View:
    """Applies a transform to a sample of uint8 pixels; random draws come from the global generator.

    Boxes are clipped to the image afterwards, and objects dropped whose width or height is not above `least` px. tight:
    boxes are those of the masks, if there are any. attempts: how often it is drawn at most, while an image that had
    objects loses all of them.
    """

    def __init__(self, transform: v2.Transform, *, least: float = 0.0, tight: bool = False, attempts: int = 1) -> None:
        self.transform = transform
        self.least = least
        self.tight = tight
        self.attempts = attempts

    def __call__(self, sample: Sample) -> Sample:
        for _ in range(self.attempts):
            found = self._tidy(self.transform(_to_tree(sample)), sample)
            if len(found.labels) or not len(sample.labels):
                break
        return found

    def _tidy(self, tree: dict[str, Any], sample: Sample) -> Sample:
        image = tree["image"].as_subclass(Tensor)
        size = (image.shape[-2], image.shape[-1])
        boxes = clip(tree["boxes"].as_subclass(Tensor), size)
        regions = clip(tree["ignore"].as_subclass(Tensor), size)
        masks = None if sample.masks is None else tree["masks"].as_subclass(Tensor)
        if self.tight and masks is not None:
            boxes = tight_boxes(masks)
        found = replace(sample, image=image, boxes=boxes, masks=masks, ignore_boxes=regions[_exceeds(regions, 0)])
        return take(found, _exceeds(boxes, self.least))


def _exceeds(boxes: Tensor, least: float) -> Tensor:
    return ((boxes[:, 2:] - boxes[:, :2]) > least).all(dim=1)


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
