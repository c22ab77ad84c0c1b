from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from codetr.data.augment.geometry import RandomSizeCrop, ResizeShortSide, resized
from codetr.data.augment_config import Augment, Color, Crop
from codetr.data.coco import Sample
from codetr.data.config import DataConfig, Resize
from codetr.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DetectionTransform,
    build_transform,
    normalise,
)
from codetr.structures import ImageInfo

BOX = (60, 30, 140, 90)  # x1, y1, x2, y2 of the white rectangle


def _sample(
    height: int = 160, width: int = 240, *, box: tuple[int, int, int, int] = BOX, masks: bool = False
) -> Sample:
    """A white rectangle on black, annotated once as an object and once as a crowd."""
    x1, y1, x2, y2 = box
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, y1:y2, x1:x2] = 255
    boxes = torch.tensor([box], dtype=torch.float32)
    info = ImageInfo(1, "x.jpg", (height, width))
    return Sample(image, boxes, torch.tensor([4]), boxes.clone(), image[:1].bool() if masks else None, info)


def _bright(image: Tensor) -> Tensor:
    """The bounding box of pixels above half, of a normalised image."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    rows, columns = torch.nonzero(((image * std + mean) > 0.5).all(dim=0), as_tuple=True)
    return torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=torch.float32)


def _augment(**changes: Any) -> DetectionTransform:
    settings: dict[str, Any] = {"scales": (96, 128, 200), "max_size": 320}
    settings["crop"] = Crop(scales=(80, 120), low=60, high=110)
    return build_transform(DataConfig(augment=Augment(**{**settings, **changes})), "train")


@pytest.mark.parametrize(
    ("size", "short", "longest", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((640, 480), 800, 1333, (1067, 800)),
        ((427, 640), 800, 1333, (800, 1199)),
        ((300, 900), 800, 1333, (444, 1333)),  # bounded by the long side
        ((1, 1000), 800, 1333, (1, 1333)),
        ((1, 5000), 800, 1333, (1, 1333)),
        ((100, 100), 100, 1333, (100, 100)),
    ],
)
def test_resized(size: tuple[int, int], short: int, longest: int, expected: tuple[int, int]) -> None:
    assert resized(size, short, longest) == expected


def test_every_short_side_is_met_exactly() -> None:
    sizes = {resized((side, 2 * side), short, 10_000)[0] - short for side in range(50, 700, 7) for short in (480, 800)}
    assert sizes == {0}


def test_normalise() -> None:
    image = torch.tensor([0, 255, 51], dtype=torch.uint8)[:, None, None]
    expected = torch.tensor([(0 - 0.485) / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225])[:, None, None]
    torch.testing.assert_close(normalise(image), expected)


def test_evaluation_resizes_and_scales_the_box() -> None:
    config = DataConfig(resize=Resize(size=320, max_size=1000))
    result = build_transform(config, "val")(_sample(), seed=3)
    assert result.image.shape == (3, 320, 480)
    assert result.boxes.tolist() == [[120, 60, 280, 180]]
    assert result.ignore_boxes.tolist() == [[120, 60, 280, 180]]
    assert result.labels.tolist() == [4]
    assert result.info.size == (160, 240)


def test_training_without_augmentation_is_the_evaluation_resize() -> None:
    config = DataConfig(augment=None, resize=Resize(size=80))
    assert build_transform(config, "train")(_sample(), seed=3).image.shape == (3, 80, 120)


def test_the_defaults_are_the_recipe() -> None:
    augment = DataConfig().augment
    assert augment is not None and augment.crop is not None
    assert augment.scales == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    assert (augment.max_size, augment.flip, augment.vertical_flip, augment.color) == (1333, 0.5, 0.0, None)
    assert (augment.crop.scales, augment.crop.low, augment.crop.high) == ((400, 500, 600), 384, 600)
    assert augment.crop.probability == 0.5
    assert DataConfig().resize == Resize(size=800, max_size=1333)


@pytest.mark.parametrize("masks", [False, True])
def test_boxes_follow_the_pixels(masks: bool) -> None:
    transform = _augment(vertical_flip=0.5)
    shapes = set()
    found = 0
    for seed in range(60):
        result = transform(_sample(masks=masks), seed=seed)
        shapes.add(tuple(result.image.shape))
        if len(result.boxes) == 0:
            continue
        found += 1
        # Two resizes and antialiasing blur the edge, by less than two pixels of the result.
        torch.testing.assert_close(result.boxes[0], _bright(result.image), rtol=0, atol=2.0)
        assert torch.equal(result.boxes, result.ignore_boxes)
        if masks:
            assert result.masks is not None and result.masks.dtype == torch.bool
            rows, columns = torch.nonzero(result.masks[0], as_tuple=True)
            own = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=torch.float32)
            # Masks are resized by nearest neighbour: off by a pixel of the crop, enlarged up to 200 / 60 times.
            torch.testing.assert_close(result.boxes[0], own, rtol=0, atol=3.4)
    assert found > 50
    assert len(shapes) > 20


def test_horizontal_and_vertical_flip() -> None:
    flips = {"scales": (160,), "crop": None}
    across = _augment(**flips, flip=1)(_sample(), seed=0)
    assert across.boxes.tolist() == [[100, 30, 180, 90]]
    assert _bright(across.image).tolist() == [100, 30, 180, 90]
    down = _augment(**flips, flip=0, vertical_flip=1)(_sample(), seed=0)
    assert down.boxes.tolist() == [[60, 70, 140, 130]]
    assert _augment(**flips, flip=0)(_sample(), seed=0).boxes.tolist() == [list(BOX)]


def test_crop_window_and_chance() -> None:
    crop = RandomSizeCrop(50, 70)
    windows = [crop.make_params([F.to_image(torch.zeros(3, 60, 200))]) for _ in range(400)]
    assert {window["height"] for window in windows} == set(range(50, 61))  # min(side, low) to min(side, high)
    assert {window["width"] for window in windows} == set(range(50, 71))
    assert all(0 <= w["top"] <= 60 - w["height"] and 0 <= w["left"] <= 200 - w["width"] for w in windows)
    assert {w["left"] + w["width"] for w in windows} >= {200} and {w["left"] for w in windows} >= {0}


def test_a_crop_of_a_small_image_is_the_image() -> None:
    assert RandomSizeCrop(384, 600).make_params([F.to_image(torch.zeros(3, 100, 120))]) == {
        "top": 0,
        "left": 0,
        "height": 100,
        "width": 120,
    }


def test_half_of_the_images_are_cropped() -> None:
    transform = _augment(scales=(160,), flip=0)
    whole = sum(transform(_sample(), seed=seed).boxes.tolist() == [list(BOX)] for seed in range(200))
    assert 75 < whole < 125  # 100 expected, deviation 7


def test_scales_are_drawn_evenly() -> None:
    transform = _augment(crop=None)
    sides = [transform(_sample(), seed=seed).image.shape[1] for seed in range(150)]
    counts = [sides.count(side) for side in (96, 128, 200)]
    assert sum(counts) == 150
    assert min(counts) > 30  # 50 expected, deviation 6


def test_objects_that_leave_the_crop_are_dropped_with_label_and_mask() -> None:
    class KeepLeftHalf(v2.Transform):
        def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
            return self._call_kernel(F.crop, inpt, 0, 0, 100, 100)

    boxes = torch.tensor([[100.0, 0, 120, 20], [90, 90, 150, 150], [10, 10, 20, 20]])
    masks = torch.zeros(3, 160, 240, dtype=torch.bool)
    masks[2, 10:20, 10:20] = True
    image = torch.zeros(3, 160, 240, dtype=torch.uint8)
    sample = Sample(image, boxes, torch.tensor([0, 1, 2]), boxes[:1], masks, ImageInfo(1, "x", (160, 240)))
    result = DetectionTransform(KeepLeftHalf())(sample, seed=0)
    assert result.boxes.tolist() == [[90, 90, 100, 100], [10, 10, 20, 20]]
    assert result.labels.tolist() == [1, 2]
    assert result.ignore_boxes.shape == (0, 4)
    assert result.masks is not None and result.masks.sum(dim=(1, 2)).tolist() == [0, 100]


def test_an_image_without_objects_passes() -> None:
    empty = torch.zeros(0, 4)
    image = torch.zeros(3, 50, 60, dtype=torch.uint8)
    none = torch.zeros(0, dtype=torch.int64)
    sample = Sample(image, empty, none, empty, torch.zeros(0, 50, 60, dtype=torch.bool), ImageInfo(1, "x", (50, 60)))
    for seed in range(8):
        result = _augment()(sample, seed=seed)
        assert result.boxes.shape == (0, 4) and result.labels.shape == (0,)
        assert result.masks is not None and result.masks.shape == (0, *result.image.shape[1:])


def test_colour_changes_pixels_and_not_boxes() -> None:
    sample = _sample()
    plain = {"scales": (160,), "crop": None, "flip": 0}
    jittered = _augment(**plain, color=Color(probability=1, brightness=0.5))(sample, seed=1)
    assert jittered.boxes.tolist() == [list(BOX)]
    assert not torch.equal(jittered.image, _augment(**plain)(sample, seed=1).image)


def test_a_seed_decides_and_the_global_generator_is_untouched() -> None:
    transform = _augment(color=Color())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = transform(_sample(), seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(100)
    again, other = transform(_sample(), seed=7), transform(_sample(), seed=8)
    assert torch.equal(first.image, again.image) and torch.equal(first.boxes, again.boxes)
    assert first.image.shape != other.image.shape or not torch.equal(first.image, other.image)


def test_the_sample_given_is_not_changed() -> None:
    sample = _sample()
    image, boxes = sample.image.clone(), sample.boxes.clone()
    for seed in range(4):
        _augment(scales=(160,), color=Color(probability=1))(sample, seed=seed)
    assert torch.equal(sample.image, image) and torch.equal(sample.boxes, boxes)


def test_resize_agrees_with_torchvision() -> None:
    image = torch.randint(0, 256, (3, 90, 140), dtype=torch.uint8)
    ours = ResizeShortSide((45,), 1000)(F.to_image(image))
    assert torch.equal(ours, v2.Resize((45, 70), antialias=True)(F.to_image(image)))


def _speck(color: int, *, masks: bool = True) -> Sample:
    """A square of 40 px on black; its label is its colour."""
    image = torch.zeros(3, 160, 240, dtype=torch.uint8)
    image[:, 60:100, 100:140] = color
    boxes = torch.tensor([[100.0, 60, 140, 100]])
    found = image[:1].bool() if masks else None
    return Sample(image, boxes, torch.tensor([color]), torch.zeros(0, 4), found, ImageInfo(color, "x", (160, 240)))


def _several(**settings: Any) -> DetectionTransform:
    return build_transform(DataConfig(masks=True, augment=Augment(flip=0, **settings)), "train")


JITTER = {"size": 200, "low": 0.5, "high": 1.5}


def test_the_recipe_of_one_image_needs_no_others() -> None:
    assert {_augment().companions(seed) for seed in range(20)} == {0}
    assert {_several(jitter=JITTER).companions(seed) for seed in range(20)} == {0}
    config = DataConfig.model_validate({"masks": True, "augment": {"jitter": JITTER, "copy_paste": {}}})
    assert build_transform(config, "val").companions(3) == 0


def test_how_many_others_are_needed() -> None:
    assert {_several(jitter=JITTER, copy_paste={}).companions(seed) for seed in range(20)} == {1}
    assert {_several(mosaic={"probability": 1}, mixup={"probability": 1}).companions(seed) for seed in range(20)} == {4}
    counts = [_several(mosaic={"probability": 0.25}).companions(seed) for seed in range(400)]
    assert set(counts) == {0, 3} and 70 < counts.count(3) < 130  # 100 expected, deviation 8.7


def test_copy_paste_takes_the_objects_of_the_other_image() -> None:
    transform = _several(jitter=JITTER, copy_paste={})
    found = [transform(_speck(250), [_speck(100)], seed=seed) for seed in range(60)]
    assert all(sample.image.shape == (3, 200, 200) for sample in found)
    assert all(sample.info.image_id == 250 for sample in found)
    labels = [sample.labels.tolist() for sample in found]
    pasted = sum(100 in some for some in labels)
    assert 15 < pasted < 45  # none or one of one, so 30 expected, deviation 3.9
    assert [250, 100] in labels  # beside each other
    assert all(some in ([], [250], [100], [250, 100]) for some in labels)


def test_mosaic_and_mixup_come_with_any_recipe() -> None:
    four = [_speck(color) for color in (50, 100, 150, 200)]
    seen: set[int] = set()
    for recipe in ({"scales": (100,), "crop": None}, {"jitter": JITTER}, {"jitter": JITTER, "copy_paste": {}}):
        transform = _several(**recipe, mosaic={"probability": 1, "size": 120}, mixup={"probability": 1})
        for seed in range(6):
            others = [*four[1:], *[_speck(250)] * (transform.companions(seed) - 3)]
            result = transform(four[0], others, seed=seed)
            seen |= set(result.labels.tolist())
            assert result.masks is not None and result.masks.shape[1:] == result.image.shape[1:]
            assert len(result.masks) == len(result.boxes) == len(result.labels)
            height, width = result.image.shape[1:]
            assert (result.boxes >= 0).all() and (result.boxes <= torch.tensor([width, height] * 2)).all()
    assert seen == {50, 100, 150, 200, 250}


def test_several_images_and_a_seed_give_one_result() -> None:
    transform = _several(jitter=JITTER, copy_paste={}, mixup={"probability": 1}, color=Color())
    others = [_speck(100), _speck(150)]
    first, again, other = (transform(_speck(250), others, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.image, again.image) and torch.equal(first.boxes, again.boxes)
    assert not torch.equal(first.image, other.image)


def test_padding_of_jitter_is_grey_before_normalisation() -> None:
    small = _several(jitter={"size": 200, "low": 0.5, "high": 0.5})(_speck(250), seed=0)
    grey = normalise(torch.full((3, 1, 1), 114, dtype=torch.uint8))
    assert torch.equal(small.image[:, 67:], grey.expand(3, 133, 200))  # 160 x 240 became 67 x 100
    assert torch.equal(small.image[:, :, 100:], grey.expand(3, 200, 100))


def test_both_images_of_a_mixture_and_of_copy_paste_are_transformed() -> None:
    mixed = _several(scales=(80,), crop=None, mixup={"probability": 1})(_speck(250), [_speck(100)], seed=0)
    assert mixed.image.shape == (3, 80, 120)
    assert mixed.boxes.tolist() == [[50, 30, 70, 50]] * 2
    transform = _several(jitter={"size": 120, "low": 1.0, "high": 1.0}, copy_paste={})
    found = [transform(_speck(250), [_speck(100)], seed=seed) for seed in range(12)]
    assert {tuple(sample.labels.tolist()) for sample in found} == {(250,), (100,)}  # the square lies on its like
    assert all(sample.boxes.tolist() == [[50, 30, 70, 50]] for sample in found)


def test_a_square_is_filled_up_with_grey_that_counts_as_image() -> None:
    """10 x 20 pixels become 4 x 8, and 8 x 8 with grey below: 114 / 255 by ImageNet's mean and deviation."""
    info = ImageInfo(1, "a.png", (10, 20))
    masks = torch.ones(1, 10, 20, dtype=torch.bool)
    boxes = torch.tensor([[0.0, 0.0, 20.0, 10.0]])
    sample = Sample(torch.full((3, 10, 20), 255, dtype=torch.uint8), boxes, torch.tensor([3]), boxes[:0], masks, info)
    config = DataConfig(augment=None, resize=Resize(size=8, max_size=8, square=True))
    found = build_transform(config, "val")(sample, seed=0)
    white, grey = (
        [(value - m) / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)] for value in (1, 114 / 255)
    )
    assert found.image.shape == (3, 8, 8)
    torch.testing.assert_close(found.image[:, 3, 7], torch.tensor(white))
    torch.testing.assert_close(found.image[:, 4, 0], torch.tensor(grey))
    assert found.boxes.tolist() == [[0, 0, 8, 4]] and found.info.content == (4, 8)
    assert found.masks is not None and found.masks.sum() == 32 and found.masks[0, :4].all()
