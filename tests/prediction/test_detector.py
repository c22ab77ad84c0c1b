"""A detector that takes pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from codetr.api import build
from codetr.data.coco import CocoDataset
from codetr.data.loader import build_loader
from codetr.errors import UserError
from codetr.evaluation.results import Results
from codetr.evaluation.runner import detect
from codetr.evaluation.test_time import TestTimeDetector
from codetr.prediction import Detector, Prediction
from codetr.prediction import prediction as prediction_module
from codetr.spec import load_spec
from codetr.structures import Detections

SPEC: dict[str, Any] = {
    "extends": ["bases/deformable_detr_pp", "backbones/resnet50"],
    "base": {
        "num_queries": 20,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "num_heads": 2,
        "num_points": 2,
        "ffn_dim": 16,
    },
    "backbone": {"model": "resnet10t", "pretrained": False, "options": {"channels": [8, 8, 8, 8], "stem_width": 8}},
    "neck": {"dim": 16, "num_groups": 4, "num_levels": 3},
    "data": {"resize": {"size": 64, "max_size": 96}},
    "eval": {"max_detections": 12},
}


SIZES = [(40, 30), (30, 40), (80, 60), (40, 30), (30, 40), (40, 30), (80, 60)]
"""Width and height of the pictures."""


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    model = build(SPEC, classes=2).eval()
    with torch.no_grad():  # away from the regular initial values, so that images differ
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return Detector(model, ("cat", "dog"), (7, 90), load_spec(SPEC), torch.device("cpu"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Seven files of three sizes, two of which are one for the model."""
    folder, files = tmp_path_factory.mktemp("pictures"), []
    for index, size in enumerate(SIZES):
        pixels = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
        files.append(folder / f"{index}.png")
        Image.fromarray(pixels).save(files[-1])
    return files


def test_detections_do_not_depend_on_the_batch(detector: Detector, pictures: list[Path]) -> None:
    """Nothing is padded, so all that differs is the order of float32 sums: 1e-4 pixels and 1e-5 of a score."""
    alone = detector.predict(pictures, score=0.0)
    assert [made.index for made in alone] == list(range(7)) and all(len(made) == 12 for made in alone)
    assert not torch.allclose(alone[0].detections.boxes, alone[3].detections.boxes, atol=1e-2)
    for batch_size in (2, 3, 7):
        together = detector.predict(pictures, score=0.0, batch_size=batch_size)
        for one, other in zip(alone, together, strict=True):
            assert (one.file, one.size, one.index) == (other.file, other.size, other.index)
            torch.testing.assert_close(one.detections.boxes, other.detections.boxes, atol=1e-4, rtol=0)
            torch.testing.assert_close(one.detections.scores, other.detections.scores, atol=1e-5, rtol=0)
            assert torch.equal(one.detections.labels, other.detections.labels)


def test_pictures_of_one_size_are_computed_together(
    detector: Detector, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    plain = type(detector.model).predict

    def predict(self: Any, images: Any, **options: Any) -> list[Detections]:
        shapes.append(tuple(images.pixels.shape))
        assert not images.padding.any()
        return plain(self, images, **options)

    monkeypatch.setattr(type(detector.model), "predict", predict)
    indices = [made.index for made in detector.stream(pictures, batch_size=4)]
    assert shapes == [(4, 3, 64, 85), (1, 3, 64, 85), (2, 3, 85, 64)] and sorted(indices) == list(range(7))
    shapes.clear()
    assert [made.index for made in detector.stream(pictures)] == list(range(7)) and len(shapes) == 7


def test_a_picture_that_cannot_be_used_stops_or_is_told_of(
    detector: Detector, pictures: list[Path], tmp_path: Path
) -> None:
    given = [pictures[0], tmp_path / "nowhere.png", pictures[1]]
    with pytest.raises(UserError, match=r"nowhere\.png: cannot be read"):
        detector.predict(given)
    told: list[tuple[int, str]] = []
    for batch_size in (1, 2):
        stream = detector.stream(given, batch_size=batch_size, on_error=lambda i, error: told.append((i, str(error))))
        assert sorted(made.index for made in stream) == [0, 2]
    assert [index for index, _ in told] == [1, 1] and "nowhere.png" in told[0][1]


def test_test_time_augmentation(detector: Detector, pictures: list[Path]) -> None:
    changed = detector.configured(["eval.test_time={scales: [48, 64], max_size: 96, fusion: vote}"])
    several = changed.spec.eval.test_time
    assert several is not None
    pixels = detector.predict(pictures[2], score=0.0).pixels
    tested = TestTimeDetector(detector.model, several)
    from codetr.evaluation.test_time import batch_of

    (expected,) = tested.predict(batch_of([pixels]), max_detections=12)
    found = changed.predict(pictures[2], score=0.0).detections
    assert torch.equal(found.boxes, expected.boxes) and torch.equal(found.scores, expected.scores)
    one = detector.configured(["eval.test_time={scales: [64], max_size: 96, flip: false}"])
    plain, same = (made.predict(pictures[2], score=0.0).detections for made in (detector, one))
    assert torch.equal(plain.boxes, same.boxes) and torch.equal(plain.scores, same.scores)


def test_pictures_in_a_square_as_in_evaluation(detector: Detector, pictures: list[Path], tmp_path: Path) -> None:
    """The loader of evaluation and the reader of prediction make the same squares."""
    squared = detector.configured(["data.resize={size: 64, max_size: 64, square: true}"])
    made = squared.predict(pictures[:3], score=0.0, batch_size=2)
    images = [{"id": i, "file_name": pictures[i].name, "height": h, "width": w} for i, (w, h) in enumerate(SIZES[:3])]
    content = {"images": images, "categories": [{"id": 7, "name": "cat"}, {"id": 90, "name": "dog"}], "annotations": []}
    (tmp_path / "set.json").write_text(json.dumps(content))
    dataset = CocoDataset(tmp_path / "set.json", pictures[0].parent)
    loader = build_loader(dataset, squared.spec.data, split="val", batch_size=1, seed=0)
    found: dict[int, Results] = {}
    detect(squared.model, loader, found.__setitem__, category_ids=(7, 90), max_detections=12)
    assert all(batch.images.pixels.shape == (1, 3, 64, 64) and not batch.images.padding.any() for batch in loader)
    for index, prediction in enumerate(made):
        corners = prediction.detections.boxes.double().numpy()
        expected = np.column_stack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
        # A batch of two and of one give the same sums in another order; coordinates are below 80 px.
        np.testing.assert_allclose(found[index].boxes, expected, atol=1e-3)


def test_settings_that_a_trained_model_can_take(detector: Detector, pictures: list[Path]) -> None:
    soft = detector.configured(["postprocess.soft_nms={iou_threshold: 0, min_score: 0}"])
    assert soft.predict(pictures[0], score=0.0).detections.scores.sum() < (
        detector.predict(pictures[0], score=0.0).detections.scores.sum()
    )
    assert detector.model.postprocess.soft_nms is None and soft.model.base is detector.model.base
    assert detector.configured([]) is detector
    with pytest.raises(UserError, match=r"train\.lr=1: .* only data\.\*, eval\.\* and postprocess\.\* can be changed"):
        detector.configured(["train.lr=1"])


def test_half_precision_finds_nearly_the_same(detector: Detector, pictures: list[Path]) -> None:
    plain, half = (
        made.predict(pictures[0], score=0.0).detections
        for made in (detector, detector.configured(["eval.precision=bf16"]))
    )
    assert not torch.equal(plain.scores, half.scores)
    assert half.boxes.dtype == half.scores.dtype == torch.float32
    torch.testing.assert_close(plain.scores, half.scores, atol=0.02, rtol=0)  # eight bits of a number


def test_a_very_large_picture_is_drawn_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes refer to the picture, the pixels are what was read of it, and both are drawn at a bounded size."""
    monkeypatch.setattr(prediction_module, "LARGEST_DRAWN", 1000)
    box = torch.tensor([[1000.0, 0, 2000, 1000]])
    crops = torch.ones(1, 28, 28)
    found = Detections(box, torch.tensor([0.9]), torch.tensor([0]), mask_crops=crops)
    made = Prediction(found, ("cat",), torch.zeros(3, 1200, 2400, dtype=torch.uint8), (2000, 4000))
    assert made.draw().size == (1000, 500)
    left, inside, right = (np.asarray(made.draw())[100, x].sum() for x in (200, 400, 700))
    assert inside > 0 and left == right == 0
    masks = replace(made, size=(20, 40), detections=replace(found, boxes=box / 100)).masks
    assert masks is not None and masks.shape == (1, 20, 40) and int(masks.sum()) == 100
