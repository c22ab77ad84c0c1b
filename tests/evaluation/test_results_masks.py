"""Masks of detections: as run lengths, in a results file, and scored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hotcoco import mask as rle
from torch import Tensor

from codetr.data.synthetic import generate
from codetr.errors import UserError
from codetr.evaluation.evaluators import EVALUATORS, Rules, open_evaluator, score
from codetr.evaluation.results import Results, collect, image_results, read_results, write_results
from codetr.evaluation.truth import GroundTruth
from codetr.ops.masks import crop_masks
from codetr.structures import Detections

SEGM = Rules(iou_type="segm")


def decoded(results: Results) -> Tensor:
    """(N, H, W)."""
    assert results.segmentations is not None
    return torch.stack([torch.from_numpy(rle.decode(code)) for code in results.segmentations]).bool()


def test_a_crop_becomes_run_lengths_of_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture of 4 x 3 pixels. The box is its lower right 2 x 2, of which the left column belongs to the object."""
    crops = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]).expand(3, 2, 2)
    boxes = torch.tensor([[1.0, 2, 3, 4], [0, 0, 2, 2], [1, 2, 3, 4]])
    found = Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0]), mask_crops=crops)
    results = image_results(5, found, (7, 9), size=(4, 3))
    assert results.segmentations is not None
    assert results.segmentations[0] == {"size": [4, 3], "counts": rle.encode(np.asfortranarray(
        [[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 1, 0]], dtype=np.uint8))["counts"].decode()}  # fmt: skip
    assert decoded(results)[1].int().tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]
    monkeypatch.setattr("codetr.ops.masks._CHUNK", 20)  # one mask at a time
    assert image_results(5, found, (7, 9), size=(4, 3)).segmentations == results.segmentations


def test_masks_in_pixels_are_written_as_they_are() -> None:
    torch.manual_seed(0)
    masks = torch.rand(3, 5, 7) > 0.5
    found = Detections(torch.rand(3, 4), torch.rand(3), torch.zeros(3, dtype=torch.long), masks)
    assert torch.equal(decoded(image_results(1, found, (7,))), masks)


def test_results_have_masks_if_every_image_has() -> None:
    bare = Detections(torch.rand(1, 4), torch.rand(1), torch.zeros(1, dtype=torch.long))
    nothing = Detections(
        torch.empty(0, 4), torch.empty(0), torch.empty(0, dtype=torch.long), torch.ones(0, 4, 4).bool()
    )
    full = replace(bare, masks=torch.ones(1, 4, 4, dtype=torch.bool))
    assert len(collect([(1, full), (2, nothing)], (7,)).segmentations or ()) == 1
    assert collect([(1, full), (2, bare)], (7,)).segmentations is None
    assert collect([(2, nothing)], (7,)).segmentations == ()


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> GroundTruth:
    """Three synthetic pictures; crowds are regions that nothing has to be found in."""
    folder = generate(tmp_path_factory.mktemp("data") / "d", train=1, val=3, size=128, workers=1, crowds=0.4)
    return GroundTruth.load(folder / "annotations" / "instances_val.json")


def perfect(truth: GroundTruth, *, crops: bool) -> list[tuple[int, Detections]]:
    """The objects of each image as detections, in pixels or as crops."""
    found = []
    for index, image_id in enumerate(truth.image_ids.tolist()):
        rows = np.flatnonzero((truth.image_index == index) & ~truth.crowd)
        boxes = torch.from_numpy(truth.boxes[rows]).float()
        boxes[:, 2:] += boxes[:, :2]
        masks = torch.stack([torch.from_numpy(rle.decode(truth.segmentations[row])).bool() for row in rows])
        labels = torch.from_numpy(truth.category_index[rows])
        bare = Detections(boxes, torch.full((len(rows),), 0.9), labels)
        own = {"mask_crops": crop_masks(masks, boxes).float() / 255} if crops else {"masks": masks}
        found.append((image_id, replace(bare, **own)))
    return found


@pytest.mark.parametrize("name", EVALUATORS)
def test_perfect_masks_score_one_through_the_file(truth: GroundTruth, tmp_path: Path, name: str) -> None:
    write_results(tmp_path / "dt.json", collect(perfect(truth, crops=False), truth.category_ids.tolist()))
    entry = json.loads((tmp_path / "dt.json").read_text())[0]
    assert set(entry) == {"image_id", "category_id", "bbox", "score", "segmentation"}
    results = read_results(tmp_path / "dt.json", iou_type="segm")
    evaluator = open_evaluator(name)
    assert pytest.approx(1.0, abs=1e-9) == score(truth, results, evaluator=evaluator, rules=SEGM).AP
    boxes = read_results(tmp_path / "dt.json")
    assert pytest.approx(1.0, abs=1e-9) == score(truth, boxes, evaluator=evaluator).AP


@pytest.mark.parametrize("name", EVALUATORS)
def test_crops_of_112_cells_lose_next_to_nothing(truth: GroundTruth, name: str) -> None:
    """Objects of some ten to sixty pixels: nearly every one keeps an IoU of 0.95."""
    sizes = dict(zip(truth.image_ids.tolist(), truth.image_sizes.tolist(), strict=True))
    parts = [
        image_results(image_id, found, truth.category_ids.tolist(), size=tuple(sizes[image_id]))
        for image_id, found in perfect(truth, crops=True)
    ]
    figures = score(truth, Results.joined(parts), evaluator=open_evaluator(name), rules=SEGM)
    assert pytest.approx(1.0, abs=1e-9) == figures.AP75 and figures.AP > 0.97


@pytest.mark.parametrize("name", EVALUATORS)
def test_boxes_of_results_with_masks_are_scored_as_boxes(name: str) -> None:
    """A wrong detection counts against the objects of its size: small by its mask of 4 pixels, medium by its box."""
    entry = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 10, 10], "area": 100}
    images = [{"id": 1, "height": 100, "width": 100}]
    content = {"images": images, "categories": [{"id": 7, "name": "a"}], "annotations": [entry]}
    truth = GroundTruth.parse(content, file="gt.json")
    masks = torch.zeros(2, 100, 100, dtype=torch.bool)
    masks[0, 40:42, 40:42], masks[1, :10, :10] = True, True
    boxes = torch.tensor([[30.0, 30, 80, 80], [0, 0, 10, 10]])
    found = collect([(1, Detections(boxes, torch.tensor([0.9, 0.8]), torch.zeros(2).long(), masks))], (7,))
    figures = score(truth, found, evaluator=open_evaluator(name))
    assert figures == score(truth, replace(found, segmentations=None), evaluator=open_evaluator(name))
    assert figures.APs == pytest.approx(1.0, abs=1e-9) and pytest.approx(0.5, abs=1e-9) == figures.AP


def test_detections_without_masks_cannot_be_scored_as_masks(truth: GroundTruth) -> None:
    found = replace(collect(perfect(truth, crops=False), truth.category_ids.tolist()), segmentations=None)
    with pytest.raises(UserError, match=r"have no masks\. Use --iou-type bbox"):
        score(truth, found, rules=SEGM)
    assert score(truth, Results.of(np.empty((0, 7))), rules=SEGM).AP == 0


def test_crops_are_pasted_after_rescaling() -> None:
    crops = torch.ones(1, 2, 2)
    found = Detections(torch.tensor([[2.0, 2, 6, 8]]), torch.ones(1), torch.zeros(1).long(), mask_crops=crops)
    half = found.rescale((8.0, 8.0), (4, 4))
    assert decoded(image_results(1, half, (7,), size=(4, 4)))[0].nonzero().tolist() == [
        [1, 1],
        [1, 2],
        [2, 1],
        [2, 2],
        [3, 1],
        [3, 2],
    ]
    with pytest.raises(ValueError, match="paste the crops"):
        replace(found, masks=torch.ones(1, 8, 8).bool()).rescale((8.0, 8.0), (4, 4))
