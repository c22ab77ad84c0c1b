"""What was found in one picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from codetr.errors import UserError
from codetr.ops.masks import paste_masks
from codetr.pictures import draw_detections
from codetr.structures import Detections

LARGEST_DRAWN = 2048
"""Longest side of a drawn picture, in pixels: it bounds the memory that drawing takes."""


@dataclass(frozen=True)
class Prediction:
    """What was found in one picture.

    detections: boxes xyxy in pixels of the upright picture, highest score first, on the host; with crops of masks if
    the branch predicts masks. classes: names of all classes, by label.
    pixels: (3, h, w) uint8, RGB, the picture, smaller than `size` if it is very large. size: its height and width.
    file: its name, or None if it was given as pixels. index: its number among those given.
    orientation: the EXIF orientation by which a file was turned upright; 1 is as stored.
    """

    detections: Detections
    classes: tuple[str, ...]
    pixels: Tensor
    size: tuple[int, int]
    file: str | None = None
    index: int = 0
    orientation: int = 1

    def __len__(self) -> int:
        return len(self.detections.scores)

    @property
    def names(self) -> list[str]:
        """Class name of each detection."""
        return [self.classes[label] for label in self.detections.labels.tolist()]

    @property
    def masks(self) -> Tensor | None:
        """(D, H, W) bool in pixels of the picture, made anew each time, or None if the branch predicts none."""
        return _masks(self.detections, self.size)

    def draw(self) -> Image.Image:
        """The picture with boxes, masks if there are any, class names and scores; at most 2048 pixels a side."""
        image = Image.fromarray(self.pixels.permute(1, 2, 0).numpy())
        image.thumbnail((LARGEST_DRAWN, LARGEST_DRAWN))
        size = (image.height, image.width)
        found = self.detections.rescale(self.size, size)
        return draw_detections(image, replace(found, masks=_masks(found, size)), self.classes, score=0.0)

    def show(self) -> None:
        """Open the drawn picture in the system's viewer."""
        self.draw().show()

    def save(self, path: str | Path) -> None:
        """Write the drawn picture. Raises: UserError if it cannot be written."""
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self.draw().save(path, quality=95)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: the picture cannot be written ({error}). Use a name such as out.jpg.") from error

    def __str__(self) -> str:
        names = self.names
        found = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
        return f"{self.file or 'picture'}: {found or 'nothing found'}"


def _masks(detections: Detections, size: tuple[int, int]) -> Tensor | None:
    if detections.mask_crops is None:
        return None
    return paste_masks(detections.mask_crops, detections.boxes, size)
