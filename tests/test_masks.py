"""Masks from end to end: a run with Mask-RCNN, its figures for boxes and masks, its pictures, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from codetr.api import evaluate, load_detector, train
from codetr.cli.main import main
from codetr.data.sheet import class_colour
from codetr.data.synthetic import generate
from codetr.engine.session import RunResult
from codetr.errors import UserError
from codetr.evaluation.results import read_results
from codetr.models.heads.mask_rcnn import MaskRCNN
from codetr.spec import load_spec
from codetr.wrap import wrap_spec

TINY: dict[str, Any] = {
    "extends": ["bases/deformable_detr_pp", "backbones/resnet50"],
    "base": {
        "num_queries": 8,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "num_heads": 2,
        "num_points": 2,
        "ffn_dim": 16,
    },
    "backbone": {
        "model": "resnet10t",
        "pretrained": False,
        "frozen_stages": -1,
        "options": {"channels": [8, 8, 8, 8], "stem_width": 8},
    },
    "neck": {"dim": 32, "num_groups": 4, "num_levels": 3},
    "heads": {
        "mask_rcnn": {
            "rpn": {"channels": 16, "train_proposals": 30, "test_proposals": 20},
            "roi": {"hidden": 16, "samples": 32, "max_detections": 10},
            "mask": {"channels": 16, "stacked_convs": 1},
        }
    },
    "data": {
        "masks": True,
        "augment": {"scales": [96, 128], "max_size": 128, "crop": None},
        "resize": {"size": 96, "max_size": 128},
        "workers": 0,
    },
    "train": {"epochs": 1, "batch_size": 2, "milestones": [1], "device": "cpu", "log_every": 1, "eval_every": 0},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("synthetic") / "data", train=4, val=2, size=64, workers=1, crowds=0.5)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return train(TINY, data=data, out=tmp_path_factory.mktemp("runs") / "masks", overrides=["eval.branch=mask_rcnn"])


def test_masks_are_trained_and_boxes_evaluated_on_the_way(run: RunResult) -> None:
    records = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert {"mask_rcnn.mask", "mask_rcnn.box", "pos.mask_rcnn.0.l1"} <= records[0]["losses"].keys()
    assert records[-1]["kind"] == "eval" and "AP" in records[-1]


@pytest.mark.parametrize("evaluator", ["hotcoco", "pycocotools"])
def test_boxes_and_masks_are_scored(
    run: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str], evaluator: str
) -> None:
    file = tmp_path / "figures.json"
    assert main(["eval", str(run.path), "--branch", "mask_rcnn", "--evaluator", evaluator, "--json", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith("A")] == ["boxes", "masks"] and len(lines) == 26
    written = json.loads(file.read_text())
    assert written["settings"]["iou_type"] == "bbox segm"
    assert 0 <= written["AP"] <= 1 and 0 <= written["segm"]["AP"] <= 1
    assert written["segm"]["per_category_AP"].keys() == written["per_category_AP"].keys()
    figures = evaluate(run.path, branch="mask_rcnn", iou_type="segm").as_dict()
    assert {name: written["segm"][name] for name in figures} == pytest.approx(figures, abs=1e-9)


def test_one_kind_may_be_asked_for(run: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(run.path), "--iou-type", "segm"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 12
    assert main(["eval", str(run.path), "--branch", "detr"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 12
    assert main(["eval", str(run.path), "--branch", "detr", "--iou-type", "segm"]) == 2
    assert "branch 'detr' predicts boxes, no masks. Use --branch mask_rcnn" in capsys.readouterr().err


def test_pictures_and_results_have_masks(run: RunResult, data: Path, tmp_path: Path) -> None:
    image = sorted((data / "images").glob("val_*"))[0]
    options = ["--checkpoint", str(run.path), "--branch", "mask_rcnn", "--score", "0.05", "--device", "cpu"]
    assert main(["predict", str(image), *options, "--out", str(tmp_path)]) == 0
    entries = json.loads((tmp_path / "predictions.json").read_text())
    assert entries and all(entry["segmentation"]["size"] == [64, 64] for entry in entries)
    found = read_results(tmp_path / "predictions.json", iou_type="segm")
    assert len(found) == len(entries) and len(found.segmentations or ()) == len(entries)


def test_a_prediction_has_masks_in_pixels_of_its_picture(run: RunResult) -> None:
    detector = load_detector(run.path, device="cpu")
    picture = np.random.default_rng(0).integers(0, 256, (50, 90, 3)).astype(np.uint8)
    prediction = detector.predict(picture, score=0.0)
    masks, boxes = prediction.masks, prediction.detections.boxes
    assert masks is not None and masks.shape == (10, 50, 90)
    for mask, box in zip(masks, boxes.tolist(), strict=True):  # no pixel outside of the box
        rows, columns = mask.nonzero(as_tuple=True)
        if len(rows):
            assert rows.min() >= box[1] - 0.5 and rows.max() + 1 <= box[3] + 0.5
            assert columns.min() >= box[0] - 0.5 and columns.max() + 1 <= box[2] + 0.5
    assert prediction.draw().size[0] >= 90


def test_training_without_masks_is_refused_before_there_is_a_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"heads\.mask_rcnn: .* learns masks, but data\.masks is false\. Set data\.masks=true"
    ):
        train(TINY, data=data, out=tmp_path / "run", overrides=["data.masks=false"])
    assert not (tmp_path / "run").exists()


def test_data_without_masks_are_refused(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "boxes"
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").symlink_to(data / "images")
    for split in ("train", "val"):
        content = json.loads((data / "annotations" / f"instances_{split}.json").read_text())
        for entry in content["annotations"]:
            del entry["segmentation"]
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"it has no segmentation, but data\.masks is on"):
        train(TINY, data=folder, out=tmp_path / "run")


def test_data_to_score_without_masks_are_refused(run: RunResult, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "boxes"
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").symlink_to(data / "images")
    content = json.loads((data / "annotations" / "instances_val.json").read_text())
    for entry in content["annotations"]:
        del entry["segmentation"]
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(content))
    (folder / "annotations" / "instances_train.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"masks cannot be evaluated\. Use --iou-type bbox"):
        evaluate(run.path, dataset=folder, branch="mask_rcnn", iou_type="segm")
    assert evaluate(run.path, dataset=folder, branch="mask_rcnn").AP >= 0


def test_a_written_spec_reads_masks(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(wrap_spec("deformable_detr", ["atss", "mask_rcnn"]))
    assert load_spec(file).data.masks and not load_spec("co_deformable_r50").data.masks
    assert load_spec({"extends": ["bases/deformable_detr", "backbones/resnet50", "heads/mask_rcnn"]}).data.masks
    assert MaskRCNN.has_masks


def test_colours_of_masks_are_those_of_their_boxes(run: RunResult, data: Path) -> None:
    picture = Image.new("RGB", (64, 64))
    prediction = load_detector(run.path, device="cpu").predict(picture, score=0.0)
    drawn = np.asarray(prediction.draw())
    colours = {class_colour(label) for label in prediction.detections.labels.tolist()}
    assert any((drawn == np.array(colour)).all(2).any() for colour in colours)
