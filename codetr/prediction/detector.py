"""A trained detector that takes pictures."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from codetr.errors import UserError
from codetr.evaluation.evaluators import DEFAULT_LIMITS
from codetr.evaluation.runner import Detector as Tested
from codetr.evaluation.test_time import TestTimeDetector, batch_of, evaluation_pixels
from codetr.models.collaborative import Collaborative
from codetr.prediction.ahead import ahead
from codetr.prediction.prediction import Prediction
from codetr.prediction.reading import Failed, Picture, Reader, Ready, size_of
from codetr.structures import to_device

if TYPE_CHECKING:
    from codetr.spec import Spec

PIXELS_AHEAD = 200_000_000
"""Pixels of pictures that are read and wait for the model, three bytes each."""
MOST_WORKERS = 8
EVALUATION = {"data", "eval", "postprocess"}
"""Sections of a spec that can be changed for a model that is trained."""


@dataclass(frozen=True)
class Detector:
    """A trained model and what it needs to be used.

    classes, category_ids: name and data-set id of each label. spec: the one that it was trained with, or what became of
    it by `configured`.
    """

    model: Collaborative
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    spec: Spec
    device: torch.device

    def configured(self, overrides: Sequence[str]) -> Detector:
        """The same weights used otherwise: `key=value` of data, eval and postprocess, such as `eval.test_time={}`.

        Raises: UserError for a setting that the model would have to be trained with.
        """
        from codetr.spec import load_spec

        if not overrides:
            return self
        changed = load_spec(self.spec.model_dump(mode="json"), overrides)
        if changed.model_dump(exclude=EVALUATION) != self.spec.model_dump(exclude=EVALUATION):
            raise UserError(
                f"{' '.join(overrides)}: the model is as it was trained, so only data.*, eval.* and postprocess.* can "
                "be changed here. Train a spec with the other settings instead."
            )
        model = copy.copy(self.model)  # the weights are shared
        model.postprocess = changed.postprocess
        return replace(self, model=model, spec=changed)

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
        """Detect objects; one picture gives one prediction, a sequence a list in its order.

        pictures: paths, PIL images or (H, W, 3) uint8 RGB arrays. score: the lowest that is returned. batch_size: as
        for `stream`. Files and PIL images are turned upright by their EXIF orientation.
        Raises: UserError naming a file that cannot be read, or an array of another shape or type.
        """
        if isinstance(pictures, (str, Path, Image.Image, np.ndarray)):
            return next(self.stream([pictures], score=score))
        found = sorted(self.stream(pictures, score=score, batch_size=batch_size), key=lambda made: made.index)
        return found

    def stream(
        self,
        pictures: Sequence[Picture],
        *,
        score: float = 0.3,
        batch_size: int = 1,
        workers: int | None = None,
        on_error: Callable[[int, UserError], None] | None = None,
    ) -> Iterator[Prediction]:
        """The same, one prediction after the other, so that any number of pictures fits into memory.

        batch_size: pictures computed together, at most; only those that have the same size for the model are, so that
        none is padded and its detections do not depend on its company. With more than one, pictures come in an order
        that puts equal sizes together: `Prediction.index` tells which it is. workers: threads that read ahead
        of the model; None takes up to eight. on_error: is given number and error of a picture that cannot be
        used, in place of an exception.
        """
        numbered = list(enumerate(pictures))
        if batch_size > 1:
            sizes = [self._model_size(size_of(picture)) for picture in pictures]
            numbered.sort(key=lambda entry: sizes[entry[0]])
        reader = Reader(self.spec.data.max_pixels)
        threads = workers or min(MOST_WORKERS, os.cpu_count() or 1)
        read = ahead(
            reader,
            numbered,
            workers=threads,
            window=threads + 2 * batch_size,
            weigh=lambda entry: min(_pixels(size_of(entry[1])), self.spec.data.max_pixels),
            budget=PIXELS_AHEAD,
        )
        tested = self._tested()
        for batch in self._batches(_usable(read, on_error), batch_size):
            yield from self._predict_batch(tested, batch, score)

    def _prepared(self, pixels: Tensor) -> Tensor:
        """What the model takes of pixels on its device: for several sizes the pixels themselves, which it resizes."""
        resize = self.spec.data.resize
        if self.spec.eval.test_time:
            return pixels
        return evaluation_pixels(pixels, resize.size, resize.max_size, square=resize.square)

    def _content_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of a picture of this size for the model; (0, 0) of one that cannot be read."""
        from codetr.data.transforms import resized

        resize = self.spec.data.resize
        return size if self.spec.eval.test_time or 0 in size else resized(size, resize.size, resize.max_size)

    def _model_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of what the model takes of it."""
        resize = self.spec.data.resize
        if resize.square and not self.spec.eval.test_time and 0 not in size:
            return resize.max_size, resize.max_size
        return self._content_size(size)

    def _batches(self, pictures: Iterable[Ready], most: int) -> Iterator[list[Ready]]:
        """Runs of at most `most` pictures that are of one size for the model."""
        batch: list[Ready] = []
        for ready in pictures:
            if batch and (len(batch) == most or self._size_of(batch[0]) != self._size_of(ready)):
                yield batch
                batch = []
            batch.append(ready)
        if batch:
            yield batch

    def _size_of(self, ready: Ready) -> tuple[int, int]:
        return self._model_size((ready.pixels.shape[1], ready.pixels.shape[2]))

    def _tested(self) -> Tested:
        model, several = self.model.eval(), self.spec.eval.test_time
        if several is None:
            return model
        return TestTimeDetector(model, several, pad_multiple=self.spec.data.pad_multiple)

    @torch.no_grad()
    def _predict_batch(self, tested: Tested, batch: Sequence[Ready], score: float) -> list[Prediction]:
        settings = self.spec.eval
        limit = DEFAULT_LIMITS["lvis" if settings.protocol == "lvis" else "coco"]
        prepared = [self._prepared(ready.pixels.to(self.device)) for ready in batch]
        images = batch_of(prepared, pad_multiple=self.spec.data.pad_multiple)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            found = tested.predict(images, branch=settings.branch, max_detections=settings.max_detections or limit)
        predictions = []
        for ready, detections in zip(batch, found, strict=True):
            content = self._content_size((ready.pixels.shape[1], ready.pixels.shape[2]))
            in_picture = to_device(detections.above(score), "cpu").rescale(content, ready.size)
            predictions.append(
                Prediction(
                    in_picture, self.classes, ready.pixels, ready.size, ready.file, ready.index, ready.orientation
                )
            )
        return predictions


def _usable(read: Iterable[Ready | Failed], on_error: Callable[[int, UserError], None] | None) -> Iterator[Ready]:
    for picture in read:
        if isinstance(picture, Ready):
            yield picture
        elif on_error is None:
            raise picture.error
        else:
            on_error(picture.index, picture.error)


def _pixels(size: tuple[int, int]) -> int:
    return size[0] * size[1]
