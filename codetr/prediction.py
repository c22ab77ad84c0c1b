"""A trained detector that takes pictures, and what it finds in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from codetr.data.coco import Sample
from codetr.data.collate import collate
from codetr.data.images import load_image
from codetr.data.transforms import build_transform
from codetr.errors import UserError
from codetr.models.collaborative import Collaborative
from codetr.ops.masks import paste_masks
from codetr.pictures import draw_detections
from codetr.structures import Detections, ImageInfo, to_device

if TYPE_CHECKING:
    from codetr.spec import Spec

Picture = str | Path | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Prediction:
    """What was found in one picture.

    detections: boxes xyxy in pixels of the picture, highest score first, with masks if the branch predicts them.
    classes: names of all classes, by label.
    pixels: (3, H, W) uint8, RGB, the picture. file: its name, or None if it was given as pixels.
    """

    detections: Detections
    classes: tuple[str, ...]
    pixels: Tensor
    file: str | None = None

    def __len__(self) -> int:
        return len(self.detections.scores)

    @property
    def names(self) -> list[str]:
        """Class name of each detection."""
        return [self.classes[label] for label in self.detections.labels.tolist()]

    def draw(self) -> Image.Image:
        """The picture with boxes, masks if there are any, class names and scores."""
        image = Image.fromarray(self.pixels.permute(1, 2, 0).numpy())
        return draw_detections(image, self.detections, self.classes, score=0.0)

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
        counts = {name: self.names.count(name) for name in dict.fromkeys(self.names)}
        found = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing found"
        return f"{self.file or 'picture'}: {found}"


@dataclass(frozen=True)
class Detector:
    """A trained model and what it needs to be used.

    classes, category_ids: name and data-set id of each label. spec: the one that it was trained with.
    """

    model: Collaborative
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    spec: Spec
    device: torch.device

    @overload  # a text is a path, although it is a sequence of texts too
    def predict(  # type: ignore[overload-overlap]
        self, pictures: Picture, *, score: float = ..., batch_size: int = ...
    ) -> Prediction: ...

    @overload
    def predict(
        self, pictures: Sequence[Picture], *, score: float = ..., batch_size: int = ...
    ) -> list[Prediction]: ...

    def predict(
        self, pictures: Picture | Sequence[Picture], *, score: float = 0.3, batch_size: int = 1
    ) -> Prediction | list[Prediction]:
        """Detect objects; one picture gives one prediction, a sequence a list.

        pictures: paths, PIL images or (H, W, 3) uint8 RGB arrays. score: the lowest that is returned.
        Raises: UserError naming a file that cannot be read, or an array of another shape or type.
        """
        if isinstance(pictures, (str, Path, Image.Image, np.ndarray)):
            return next(self.stream([pictures], score=score))
        return list(self.stream(pictures, score=score, batch_size=batch_size))

    def stream(self, pictures: Sequence[Picture], *, score: float = 0.3, batch_size: int = 1) -> Iterator[Prediction]:
        """The same, one prediction after the other, so that any number of pictures fits into memory."""
        for start in range(0, len(pictures), batch_size):
            yield from self._predict_batch(pictures[start : start + batch_size], score)

    @torch.no_grad()
    def _predict_batch(self, pictures: Sequence[Picture], score: float) -> list[Prediction]:
        transform = build_transform(self.spec.data, "val")
        samples = [_sample(picture, index) for index, picture in enumerate(pictures)]
        batch = collate([transform(sample, seed=0) for sample in samples])
        found = self.model.eval().predict(
            to_device(batch.images, self.device),
            branch=self.spec.eval.branch,
            max_detections=self.spec.eval.max_detections,
        )
        predictions = []
        for sample, picture, size, detections in zip(
            samples, pictures, batch.images.sizes.tolist(), found, strict=True
        ):
            in_picture = detections.above(score).rescale((size[0], size[1]), sample.info.size)
            in_picture = to_device(_with_masks(in_picture, sample.info.size), "cpu")
            file = str(picture) if isinstance(picture, (str, Path)) else None
            predictions.append(Prediction(in_picture, self.classes, sample.image, file))
        return predictions


def _with_masks(detections: Detections, size: tuple[int, int]) -> Detections:
    """Masks in the pixels of a picture of `size` (height, width), if there are crops of masks."""
    if detections.mask_crops is None:
        return detections
    return replace(detections, masks=paste_masks(detections.mask_crops, detections.boxes, size))


def _sample(picture: Picture, image_id: int) -> Sample:
    pixels = _pixels(picture)
    info = ImageInfo(
        image_id, str(picture) if isinstance(picture, (str, Path)) else "", (pixels.shape[1], pixels.shape[2])
    )
    return Sample(pixels, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), None, info)


def _pixels(picture: Picture) -> Tensor:
    """(3, H, W) uint8."""
    if isinstance(picture, (str, Path)):
        return load_image(Path(picture))
    array = np.array(picture.convert("RGB")) if isinstance(picture, Image.Image) else picture
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise UserError(
            f"a picture as an array is (height, width, 3), uint8, RGB; this one is {array.shape}, {array.dtype}. "
            "Convert it, or give a PIL image or a path."
        )
    return torch.from_numpy(np.array(array)).permute(2, 0, 1).contiguous()
