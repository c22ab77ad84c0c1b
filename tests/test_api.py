"""From a spec to a run, on to a longer run, a detector, its figures and its pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import codetr
from codetr.api import build, evaluate, load_detector, train
from codetr.data.synthetic import generate
from codetr.engine.checkpoint import Meta, read_meta, read_weights, save_weights
from codetr.engine.report import NonFinite
from codetr.engine.run_folder import RunFolder
from codetr.engine.session import RunResult
from codetr.errors import UserError
from codetr.prediction import Prediction

TINY: dict[str, Any] = {
    "extends": ["bases/deformable_detr_pp", "backbones/resnet50"],
    "base": {
        "num_queries": 8,
        "encoder_layers": 1,
        "decoder_layers": 2,
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
    "heads": {"atss": {}},
    "data": {"augment": {"scales": [96, 128], "max_size": 128, "crop": None}, "resize": {"size": 128}, "workers": 0},
    "train": {"epochs": 2, "batch_size": 2, "milestones": [1], "device": "cpu", "log_every": 1, "eval_every": 0},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("synthetic") / "data", train=6, val=2, size=128, workers=1)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    """Two epochs of three steps."""
    return train(TINY, data=data, out=tmp_path_factory.mktemp("runs") / "tiny")


def test_a_run_leaves_everything_behind(run: RunResult, data: Path) -> None:
    assert run.outcome.finished and run.outcome.step == 6
    expected = {"spec.yaml", "environment.json", "command.txt", "metrics.jsonl", "metrics.csv", "checkpoints"}
    assert {file.name for file in run.path.iterdir()} == expected
    last = read_meta(RunFolder(run.path).last)
    content = json.loads((data / "annotations" / "instances_val.json").read_text())
    assert last.category_ids == tuple(sorted(entry["id"] for entry in content["categories"]))
    assert (last.epoch, last.step, last.steps_per_epoch) == (2, 6, 3)
    assert last.spec["data"]["dir"] == str(data)
    records = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [(record["kind"], record["step"]) for record in records] == [
        *(("train", n + 1) for n in range(6)),
        ("eval", 6),
    ]
    assert {"match.0.cls", "match.1.giou", "atss.cls", "pos.atss.0.l1", "encoder.cls"} <= records[0]["losses"].keys()
    assert records[-1]["AP"] == run.figures["AP"]


def test_resuming_a_real_model_is_exact(run: RunResult, data: Path, tmp_path: Path) -> None:
    """Stopped in the middle of the second epoch, with augmentation and heads that sample."""
    train(TINY, data=data, out=tmp_path / "again", max_steps=4)
    train(resume=tmp_path / "again")
    straight = read_weights(RunFolder(run.path).last)
    resumed = read_weights(RunFolder(tmp_path / "again").last)
    assert straight.keys() == resumed.keys()
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name


def test_a_longer_run_goes_on_with_another_setting(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = train(TINY, data=data, max_steps=1, overrides=["train.eval_every=null"])
    assert first.path == Path("runs/spec") and not first.outcome.finished
    longer = train(resume=True, overrides=["train.epochs=3"], max_steps=2)
    assert (longer.path, longer.outcome.step) == (first.path, 2)
    assert "epochs: 3" in (first.path / "spec.yaml").read_text()
    with pytest.raises(UserError, match=r"makes another model than the run has \(base, heads changed\)"):
        train(resume=True, overrides=["heads={}", "base.ffn_dim=32"])


def test_resuming_with_other_classes_is_refused(run: RunResult, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "annotations").mkdir(parents=True)
    (other / "images").symlink_to(data / "images")
    for split in ("train", "val"):
        content = json.loads((data / "annotations" / f"instances_{split}.json").read_text())
        content["categories"] = content["categories"][:1]
        content["annotations"] = []
        (other / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    classes = len(read_meta(RunFolder(run.path).last).classes)
    with pytest.raises(UserError, match=rf"was trained for {classes} classes \(.*has 1 class \("):
        train(resume=run.path, data=other)


def test_start_and_resume_want_different_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a spec is needed"):
        train()
    with pytest.raises(ValueError, match="stays in its own folder"):
        train(resume=True, out=tmp_path)


def test_a_diverging_model_stops_with_the_term_and_the_images(data: Path, tmp_path: Path) -> None:
    """After one step of an absurd size the weights are finite, but what they compute is not."""
    overrides = ["train.lr=1e30", "train.weight_decay=0", "train.eval_every=null", "train.checkpoint_every=1"]
    with pytest.raises(NonFinite, match=r"step 2: (.|\n)*terms: .*\.cls = (.|\n)*images: .*\.jpg") as caught:
        train(TINY, data=data, out=tmp_path / "run", overrides=overrides)
    assert str(data / "images") in str(caught.value)
    assert read_meta(RunFolder(tmp_path / "run").last).step == 1


def test_a_failed_start_leaves_no_folder(data: Path, tmp_path: Path) -> None:
    groups = "train.lr_groups=[{match: bakbone, factor: 0.1}]"
    with pytest.raises(UserError, match="bakbone"):
        train(TINY, data=data, out=tmp_path / "run", overrides=[groups])
    assert list(tmp_path.iterdir()) == []


def test_a_detector_finds_the_same_whatever_form_a_picture_has(run: RunResult, data: Path, tmp_path: Path) -> None:
    detector = load_detector(run.path)
    assert detector.classes == read_meta(RunFolder(run.path).last).classes
    assert not detector.model.training
    picture = tmp_path / "wide.png"
    file = next((data / "images").glob("*.jpg"))
    Image.open(file).resize((200, 100)).save(picture)
    by_path = detector.predict(picture, score=0.0)
    assert isinstance(by_path, Prediction) and by_path.file == str(picture)
    assert 0 < len(by_path) <= 100 and len(by_path.names) == len(by_path)
    boxes = by_path.detections.boxes
    assert (boxes >= 0).all() and (boxes <= torch.tensor([200, 100, 200, 100])).all()
    assert boxes[:, 0::2].max() > 128  # pixels of the picture, not of the smaller image that the model saw
    image = Image.open(picture)
    for other in (image, np.array(image), str(picture)):
        again = detector.predict(other, score=0.0)
        assert isinstance(again, Prediction)
        assert torch.equal(again.detections.boxes, boxes)
    # The median score halves the detections; batches pad, which moves sums by float32 rounding.
    middle = float(by_path.detections.scores.median())
    several = detector.predict([picture, file], score=middle, batch_size=2)
    assert isinstance(several, list) and [entry.file for entry in several] == [str(picture), str(file)]
    assert (several[0].detections.scores >= middle).all() and abs(len(several[0]) - len(by_path) / 2) <= 2


def test_a_prediction_is_drawn_in_its_picture(run: RunResult, data: Path, tmp_path: Path) -> None:
    file = next((data / "images").glob("*.jpg"))
    prediction = load_detector(run.path).predict(file, score=0.0)
    assert isinstance(prediction, Prediction)
    prediction.save(tmp_path / "new" / "out.png")
    drawn, original = Image.open(tmp_path / "new" / "out.png"), Image.open(file)
    assert drawn.width / drawn.height == original.width / original.height
    assert np.abs(np.asarray(drawn.resize(original.size)).astype(int) - np.asarray(original)).max() > 50
    assert str(prediction).startswith(f"{file}: ")
    with pytest.raises(UserError, match=r"out\.nothing: the picture cannot be written"):
        prediction.save(tmp_path / "out.nothing")


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_an_array_of_another_form_is_refused(run: RunResult, array: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"\(height, width, 3\), uint8, RGB; this one is"):
        load_detector(run.path).predict(array)


def test_evaluation_of_a_run_gives_the_figures_of_its_training(run: RunResult, data: Path) -> None:
    figures = evaluate(run.path)
    assert figures.as_dict() == pytest.approx(dict(run.figures), abs=1e-12)
    by_other_library = evaluate(run.path, dataset=data, evaluator="pycocotools")
    assert abs(by_other_library.AP - figures.AP) < 1e-9  # float64 means of the same numbers
    assert evaluate(run.path, branch="atss", max_detections=5).max_detections == 5
    with pytest.raises(UserError, match="no branch 'fcos'"):
        evaluate(run.path, branch="fcos")


def test_weights_without_the_heads_load_as_the_bare_base(run: RunResult, data: Path, tmp_path: Path) -> None:
    checkpoint = RunFolder(run.path).last
    shipped = {name: value for name, value in read_weights(checkpoint).items() if name.startswith("base.")}
    save_weights(tmp_path / "shipped.safetensors", shipped, read_meta(checkpoint))
    bare, whole = load_detector(tmp_path / "shipped.safetensors"), load_detector(checkpoint)
    assert len(bare.model.heads) == 0 and len(whole.model.heads) == 1
    file = next((data / "images").glob("*.jpg"))
    ours, theirs = bare.predict(file, score=0.0), whole.predict(file, score=0.0)
    assert isinstance(ours, Prediction) and isinstance(theirs, Prediction)
    assert torch.equal(ours.detections.boxes, theirs.detections.boxes)
    assert torch.equal(ours.detections.scores, theirs.detections.scores)


def test_a_spec_stands_for_its_newest_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no run of 'co_deformable_r50' found"):
        load_detector("co_deformable_r50")
    with pytest.raises(UserError, match="no run found"):
        load_detector()


def test_weights_for_another_number_of_classes_are_refused(run: RunResult, tmp_path: Path) -> None:
    checkpoint = RunFolder(run.path).last
    meta = read_meta(checkpoint)
    wrong = Meta(meta.classes[:1], meta.category_ids[:1], meta.spec)
    save_weights(tmp_path / "wrong.safetensors", read_weights(checkpoint), wrong)
    with pytest.raises(UserError, match=r"wrong\.safetensors: these weights do not fit the model"):
        load_detector(tmp_path / "wrong.safetensors")


def test_building_an_untrained_detector() -> None:
    model = build(TINY, classes=5, overrides=["heads={}"])
    assert model.num_classes == 5 and len(model.heads) == 0
    assert codetr.build is build


def test_the_package_offers_its_interface_without_importing_torch() -> None:
    code = (
        "import sys, codetr; assert 'torch' not in sys.modules; "
        "assert {'build', 'load', 'train', 'evaluate', '__version__'} <= set(dir(codetr)); "
        "assert codetr.__version__[0].isdigit(); assert 'torch' not in sys.modules; "
        "assert codetr.load.__name__ == 'load_detector'; assert 'torch' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        codetr.nothing  # noqa: B018
