"""Test-time augmentation of a small model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from small import PLUS_PLUS, small_model

from codetr.data.coco import Sample
from codetr.data.collate import collate
from codetr.data.config import DataConfig
from codetr.data.transforms import build_transform
from codetr.evaluation.test_time import TestTimeDetector, as_read, batch_of, evaluation_pixels
from codetr.evaluation.test_time_config import TestTime
from codetr.models.collaborative import Collaborative
from codetr.structures import Detections, ImageBatch, ImageInfo

ONE_PASS = {"scales": [48], "max_size": 80, "flip": False}


def settings(**values: Any) -> TestTime:
    return TestTime.model_validate({"scales": [40, 56], "max_size": 90, **values})


def pixels(height: int, width: int, seed: int = 0) -> Tensor:
    """Blots, so that a resized picture resembles itself."""
    coarse = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 255
    return nn.functional.interpolate(coarse[None], (height, width), mode="bilinear")[0].byte()


def sample(image: Tensor) -> Sample:
    none = torch.zeros(0, 4)
    info = ImageInfo(1, "", (image.shape[1], image.shape[2]))
    return Sample(image, none, torch.zeros(0, dtype=torch.int64), none, None, info)


def of_files(*images: Tensor) -> ImageBatch:
    """As a loader with `as_read` yields them."""
    return collate([as_read(sample(image), seed=0) for image in images]).images


@pytest.fixture(scope="module")
def model() -> Collaborative:
    return small_model(PLUS_PLUS, {}).eval()


class Recorded:
    """Finds one object: the bounding box of what is red. Keeps what it was given."""

    training = False

    def __init__(self) -> None:
        self.heads = nn.ModuleDict()
        self.given: list[ImageBatch] = []

    def train(self, mode: bool = True) -> Recorded:
        self.training = mode
        return self

    def predict(self, images: ImageBatch, *, branch: str, max_detections: int) -> list[Detections]:
        self.given.append(images)
        found = []
        for image in images.pixels:
            rows, columns = (image[0] > 0).nonzero(as_tuple=True)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            score = torch.tensor([0.8])
            mask = torch.arange(4.0).expand(1, 4, 4) / 4
            boxes = torch.tensor([[float(value) for value in box]])
            found.append(Detections(boxes, score, torch.tensor([3]), mask_crops=mask))
        return found


def red(height: int, width: int, box: tuple[int, int, int, int]) -> Tensor:
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[0, box[1] : box[3], box[0] : box[2]] = 255
    return image


def test_one_size_that_is_not_mirrored_is_plain_detection(model: Collaborative) -> None:
    """To the bit: the same pixels from the same function, and nothing to fuse."""
    images = [pixels(60, 90, seed) for seed in range(2)]
    config = DataConfig.model_validate({"resize": {"size": 48, "max_size": 80}, "pad_multiple": 32})
    transform = build_transform(config, "val")
    batch = collate([transform(sample(image), seed=0) for image in images], pad_multiple=32).images
    with torch.no_grad():
        plain = model.predict(batch, max_detections=20)
    tested = TestTimeDetector(model, settings(**ONE_PASS), pad_multiple=32)
    found = tested.predict(of_files(*images), max_detections=20)
    for ours, theirs in zip(found, plain, strict=True):
        expected = theirs.rescale((48, 72), (60, 90))
        assert torch.equal(ours.boxes, expected.boxes) and torch.equal(ours.scores, expected.scores)
        assert torch.equal(ours.labels, expected.labels) and len(ours.scores) == 20


@pytest.mark.parametrize("fusion", ["wbf", "vote", "soft_nms", "nms"])
def test_a_mirrored_image_gives_mirrored_detections(model: Collaborative, fusion: str) -> None:
    image = pixels(60, 90)
    tested = TestTimeDetector(model, settings(fusion=fusion))
    (found,) = tested.predict(of_files(image), max_detections=15)
    (mirrored,) = tested.predict(of_files(image.flip(-1)), max_detections=15)
    left, top, right, bottom = mirrored.boxes.unbind(-1)
    # Measured: 1e-5. Resizing a mirrored image may round a level the other way.
    torch.testing.assert_close(torch.stack([90 - right, top, 90 - left, bottom], -1), found.boxes, atol=0.05, rtol=0)
    torch.testing.assert_close(mirrored.scores, found.scores, atol=1e-3, rtol=0)
    assert torch.equal(mirrored.labels, found.labels)


def test_boxes_stay_in_their_images(model: Collaborative) -> None:
    found = TestTimeDetector(model, settings()).predict(of_files(pixels(60, 90), pixels(33, 200)), max_detections=30)
    for detections, (height, width) in zip(found, [(60, 90), (33, 200)], strict=True):
        limit = torch.tensor([width, height, width, height])
        assert (detections.boxes >= 0).all() and (detections.boxes <= limit).all() and len(detections.scores) > 5


def test_passes_are_brought_back_and_fused() -> None:
    recorded = Recorded()
    images = of_files(red(100, 200, (20, 10, 60, 50)), red(50, 50, (25, 0, 50, 50)))
    first, second = TestTimeDetector(recorded, settings(scales=[50, 100], max_size=400)).predict(images)
    # A pixel of the smallest size is four of its file, and half of one may be lit by its neighbour.
    torch.testing.assert_close(first.boxes, torch.tensor([[20.0, 10, 60, 50]]), atol=2.1, rtol=0)
    torch.testing.assert_close(second.boxes, torch.tensor([[25.0, 0, 50, 50]]), atol=1.1, rtol=0)
    assert first.scores.tolist() == pytest.approx([0.8]) and first.labels.tolist() == [3]
    assert first.mask_crops is not None
    # Half of the passes see the mirrored mask.
    torch.testing.assert_close(first.mask_crops, torch.full((1, 4, 4), 0.375), atol=0.02, rtol=0)
    shapes = [tuple(batch.pixels.shape) for batch in recorded.given]
    assert shapes == 2 * [(1, 3, 50, 100), (1, 3, 50, 50)] + 2 * [(1, 3, 100, 200), (1, 3, 100, 100)]
    assert torch.equal(recorded.given[0].pixels, recorded.given[2].pixels.flip(-1))


def test_images_of_one_size_are_computed_together_and_padded_as_asked() -> None:
    recorded = Recorded()
    images = of_files(*(red(60, 90, (10, 10, 30 + 5 * index, 40)) for index in range(3)))
    TestTimeDetector(recorded, settings(**ONE_PASS), pad_multiple=32).predict(images)
    (batch,) = recorded.given
    assert batch.pixels.shape == (3, 3, 64, 96) and batch.sizes.tolist() == [[48, 72]] * 3
    assert batch.padding[:, 48:].all() and batch.padding[:, :, 72:].all() and not batch.padding[:, :48, :72].any()
    assert (batch.pixels[batch.padding[:, None].expand_as(batch.pixels)] == 0).all()


def test_the_longest_side_is_limited() -> None:
    assert evaluation_pixels(pixels(50, 200), 100, 300).shape == (3, 75, 300)


def test_modes_are_those_of_the_model() -> None:
    recorded = Recorded()
    tested = TestTimeDetector(recorded, settings())
    tested.train(True)
    assert recorded.training and tested.training and tested.heads is recorded.heads


def test_pixels_that_were_resized_already_are_refused() -> None:
    batch = batch_of([torch.zeros(3, 8, 8)])
    with pytest.raises(ValueError, match=r"takes pixels as they are read, uint8, not torch\.float32"):
        TestTimeDetector(Recorded(), settings()).predict(batch)


def test_settings_are_checked() -> None:
    assert settings().passes == 4 and settings(flip=False).passes == 2
    for wrong in ({"scales": []}, {"scales": [0]}, {"fusion": "mean"}, {"iou": 0}, {"sigma": 0}):
        with pytest.raises(ValueError):
            settings(**wrong)


def test_the_file_is_what_is_resized() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 20, 30)).astype(np.uint8)
    assert torch.equal(of_files(torch.from_numpy(image)).pixels[0], torch.from_numpy(image))
