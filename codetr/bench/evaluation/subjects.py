"""Who detects in image files: our detector in batches, the same one image after the other, and a peer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from codetr.bench.step.instruments import Place, detector_instruments, timed_places
from codetr.bench.step.recorder import BACKBONE, DECODER, ENCODER, Recorder
from codetr.evaluation import test_time
from codetr.evaluation.test_time import batch_of
from codetr.models import collaborative
from codetr.prediction import Detector
from codetr.prediction import detector as prediction

Item = TypeVar("Item")

READING, RESIZING, POSTPROCESSING, FUSION = "reading", "resizing", "post-processing", "fusion"
OURS, ONE_BY_ONE, TRANSFORMERS = "codetr", "one by one", "transformers"


@dataclass(frozen=True)
class Subject:
    """detect: in all files, and how many detections there are. instruments: mark the parts of it."""

    name: str
    batch: int
    detect: Callable[[Sequence[Path], Recorder], int]
    instruments: Callable[[Recorder], AbstractContextManager[None]]
    note: str = ""


def in_batches(detector: Detector, batch: int, workers: int | None) -> Subject:
    """`Detector.stream`, whose threads read ahead: `reading` is the time that the model waits for them."""

    def detect(files: Sequence[Path], recorder: Recorder) -> int:
        return sum(len(found) for found in detector.stream(files, score=0.0, batch_size=batch, workers=workers))

    return Subject(OURS, batch, detect, lambda recorder: _instruments(detector, recorder))


def one_by_one(detector: Detector) -> Subject:
    """The loop that one writes first: Pillow decodes and resizes an image, then the model has its turn."""
    resize, settings = detector.spec.data.resize, detector.spec.eval
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    @torch.no_grad()
    def detect(files: Sequence[Path], recorder: Recorder) -> int:
        model, found = detector.model.eval(), 0
        for file in files:
            with recorder.part(READING), Image.open(file) as image:
                picture = image.convert("RGB")
            with recorder.part(RESIZING):
                factor = min(resize.size / min(picture.size), resize.max_size / max(picture.size))
                size = (round(picture.width * factor), round(picture.height * factor))
                array = np.asarray(picture.resize(size, Image.Resampling.BILINEAR), dtype=np.float32) / 255
                pixels = ((torch.from_numpy(array).permute(2, 0, 1) - mean) / std).to(detector.device)
            limit = settings.max_detections or 100
            with torch.autocast(detector.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                (detections,) = model.predict(batch_of([pixels]), branch=settings.branch, max_detections=limit)
            found += len(detections.scores.cpu())
        return found

    note = "Pillow decodes and resizes, then the model detects; one size, whatever the settings of test time"
    return Subject(ONE_BY_ONE, 1, detect, lambda recorder: _instruments(detector, recorder), note)


def transformers(detector: Detector, batch: int) -> Subject:
    """Deformable DETR of transformers, of the same sizes and with fresh weights, with its own image processor.

    Raises: UserError if it is not installed, or has no model of these sizes.
    """
    from codetr.bench.step.peer import transformers_subject

    subject = transformers_subject(detector.spec, len(detector.classes), detector.device)
    model: Any = subject.model.eval()
    from transformers import DeformableDetrImageProcessor

    resize, limit = detector.spec.data.resize, detector.spec.eval.max_detections or 100
    processor: Any = DeformableDetrImageProcessor(size={"shortest_edge": resize.size, "longest_edge": resize.max_size})

    @torch.no_grad()
    def detect(files: Sequence[Path], recorder: Recorder) -> int:
        found = 0
        for start in range(0, len(files), batch):
            with recorder.part(READING):
                images = [Image.open(file).convert("RGB") for file in files[start : start + batch]]
            with recorder.part(RESIZING):
                inputs = processor(images=images, return_tensors="pt").to(detector.device)
            with torch.autocast(detector.device.type, torch.bfloat16, enabled=detector.spec.eval.precision == "bf16"):
                output = model(**inputs)
            with recorder.part(POSTPROCESSING):
                sizes = [(image.height, image.width) for image in images]
                results = processor.post_process_object_detection(
                    output, threshold=0.0, target_sizes=sizes, top_k=limit
                )
                found += sum(len(result["scores"].cpu()) for result in results)
        return found

    @contextmanager
    def instruments(recorder: Recorder) -> Iterator[None]:
        places: list[Place] = [
            (model.model.backbone, "forward", BACKBONE),
            (model.model.encoder, "forward", ENCODER),
            (model.model.decoder, "forward", DECODER),
        ]
        with timed_places(places, recorder):
            yield

    note = "Deformable DETR of the same sizes, fresh weights, its own image processor; images of a batch are padded"
    return Subject(TRANSFORMERS, batch, detect, instruments, note)


@contextmanager
def _instruments(detector: Detector, recorder: Recorder) -> Iterator[None]:
    places: list[Place] = [
        (collaborative, "top_detections", POSTPROCESSING),
        (test_time, "evaluation_pixels", RESIZING),
        (prediction, "evaluation_pixels", RESIZING),
        (test_time, "fuse", FUSION),
    ]
    with detector_instruments(detector.model, recorder), timed_places(places, recorder), _timed_reading(recorder):
        yield


@contextmanager
def _timed_reading(recorder: Recorder) -> Iterator[None]:
    """Marks the time that `Detector.stream` waits for pictures."""
    plain: Any = vars(prediction)["ahead"]

    def waiting(*arguments: Any, **options: Any) -> Iterator[Any]:
        return _marked(plain(*arguments, **options), recorder)

    with patch.object(prediction, "ahead", waiting):
        yield


def _marked(items: Iterable[Item], recorder: Recorder) -> Iterator[Item]:
    waiting = iter(items)
    while True:
        with recorder.part(READING):
            try:
                item = next(waiting)
            except StopIteration:
                return
        yield item
