"""`codetr eval`: a results file against its annotations, and a model on the validation images."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from codetr.cli.main import main
from codetr.prediction import Detector
from codetr.spec import Spec, load_spec
from codetr.structures import Detections, ImageBatch

ENTRY: dict[str, Any] = {"image_id": 1, "category_id": 3, "bbox": [40, 20, 32, 48], "score": 0.9}


def data_set(folder: Path, *, classes: tuple[str, ...] = ("square", "hole")) -> Path:
    """Two black pictures of 128 x 96 with a white square each, of the first class; of the second there is none."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    content: dict[str, Any] = {"images": [], "annotations": []}
    content["categories"] = [{"id": 3 + index, "name": name} for index, name in enumerate(classes)]
    for image_id, (x, y, w, h) in ((1, (40, 20, 32, 48)), (2, (8, 16, 64, 64))):
        picture = Image.new("RGB", (128, 96))
        picture.paste((255, 255, 255), (x, y, x + w, y + h))
        picture.save(folder / "images" / f"{image_id}.png")
        content["images"].append({"id": image_id, "file_name": f"{image_id}.png", "width": 128, "height": 96})
        content["annotations"].append(
            {"id": image_id, "image_id": image_id, "category_id": 3, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
        )
    for split in ("train", "val"):
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


class WhiteSquares(nn.Module):
    """Finds the white part of each picture; its head says the other class."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({"atss": nn.Identity()})

    def predict(self, images: ImageBatch, *, branch: str, max_detections: int) -> list[Detections]:
        found = []
        for pixels, size in zip(images.pixels, images.sizes.long().tolist(), strict=True):
            rows, columns = torch.nonzero(pixels[0, : size[0], : size[1]] > 0, as_tuple=True)
            box = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
            label = torch.tensor([0 if branch == "detr" else 1])
            found.append(Detections(box[None], torch.tensor([0.9]), label))
        return found


@dataclass(frozen=True)
class FakeDetector:
    spec: Spec
    model: nn.Module
    classes: tuple[str, ...] = ("square", "hole")
    category_ids: tuple[int, ...] = (3, 4)
    device: str = "cpu"

    configured = Detector.configured


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A detector trained on the data set in `squares`; returns what was asked for."""
    data_set(tmp_path / "squares")
    monkeypatch.chdir(tmp_path)
    overrides = ["data=squares", "data.workers=0", "data.resize.size=192", "data.resize.max_size=256"]
    spec = load_spec("co_deformable_r50", overrides)
    asked: list[str] = []

    def load_detector(source: str, *, device: str) -> FakeDetector:
        asked.append(source)
        return FakeDetector(spec, WhiteSquares())

    api = ModuleType("codetr.api")
    monkeypatch.setattr(api, "load_detector", load_detector, raising=False)
    monkeypatch.setitem(sys.modules, "codetr.api", api)
    return asked


def values(output: str) -> dict[str, str]:
    pairs = (line.rsplit(maxsplit=1) for line in output.splitlines())
    return {name.strip(): value for name, value in pairs}


def scored(folder: Path, entries: object, *options: str) -> int:
    data_set(folder / "squares")
    (folder / "dt.json").write_text(json.dumps(entries))
    truth = folder / "squares" / "annotations" / "instances_val.json"
    return main(["eval", "--predictions", str(folder / "dt.json"), "--annotations", str(truth), *options])


@pytest.mark.parametrize("evaluator", ["hotcoco", "pycocotools"])
def test_a_results_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], evaluator: str) -> None:
    file = tmp_path / "out" / "figures.json"
    options = ("--evaluator", evaluator, "--per-class", "--json", str(file))
    assert scored(tmp_path, [ENTRY], *options) == 0
    printed = capsys.readouterr().out
    shown = values(printed)
    # One of two objects is found exactly: recall is a half, and so is precision at 51 of 101 levels of recall.
    assert shown["AR100"] == "0.500"
    assert shown["APs"] == "n/a"
    assert shown["AP"] == f"{51 / 101:.3f}"
    assert re.search(rf"^square +2 +{51 / 101:.3f} ", printed, re.MULTILINE)
    written = json.loads(file.read_text())
    assert written["AP"] == written["per_category_AP"]["square"] == pytest.approx(51 / 101, abs=1e-12)
    assert written["APs"] == written["per_category_AP"]["hole"] == -1
    assert written["settings"]["evaluator"] == evaluator


def test_the_official_figures_reach_the_json_file(shared: Path, tmp_path: Path) -> None:
    folder, file = shared / "data" / "eval", tmp_path / "figures.json"
    expected = json.loads((folder / "expected.json").read_text())["stats"]
    inputs = ["--predictions", str(folder / "coco_val2014_fakebbox100_results.json")]
    inputs += ["--annotations", str(folder / "coco_val2014_100_gt.json"), "--json", str(file)]
    rows = {"": [], "/useCats0": ["--class-agnostic"], "/maxDets300": ["--max-detections", "300"]}
    for row, options in rows.items():
        assert main(["eval", *inputs, *options]) == 0
        written = json.loads(file.read_text())
        stats = expected[f"coco_val2014_100/bbox{row}"]
        # Half a unit of the sixth decimal, to which the official figures are to be met.
        assert {name: written[name] for name in stats} == pytest.approx(stats, abs=5e-7)


def test_no_detections_are_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scored(tmp_path, []) == 0
    assert values(capsys.readouterr().out)["AP"] == "0.000"


def test_results_are_scored_without_torch(tmp_path: Path) -> None:
    (tmp_path / "dt.json").write_text(json.dumps([ENTRY]))
    truth = data_set(tmp_path / "squares") / "annotations" / "instances_val.json"
    code = (
        "import sys; from codetr.cli.main import main; "
        f"code = main(['eval', '--predictions', {str(tmp_path / 'dt.json')!r}, '--annotations', {str(truth)!r}]); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.parametrize(
    ("entries", "options", "message"),
    [
        ([{**ENTRY, "image_id": 9}], [], "image ids"),
        ([{**ENTRY, "category_id": 1}], [], "category ids"),
        ({"images": [], "annotations": [], "categories": []}, [], "this is a data set"),
        ([ENTRY], ["--iou-type", "segm"], "--iou-type bbox"),
        ([ENTRY], ["--branch", "atss"], "--branch: only for a model"),
        ([ENTRY], ["runs/x"], "runs/x: only for a model"),
        ([ENTRY], ["--class-agnostic", "--per-class"], "leave out one"),
        ([ENTRY], ["--max-detections", "0"], "--max-detections"),
        ([ENTRY], ["--json", "/dev/null/figures.json"], "/dev/null/figures.json: cannot be written"),
    ],
)
def test_errors_are_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], entries: object, options: list[str], message: str
) -> None:
    assert scored(tmp_path, entries, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("error:") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "images"], "--images: only with --annotations"),
        (["--dataset", "lvis", "--annotations", "gt.json"], "both name images"),
        (
            ["--predictions", "a", "--annotations", "b", "--submission", "c.zip", "--tta"],
            "--tta and --submission: only",
        ),
        (["--predictions", "a", "--annotations", "b", "--dataset", "voc"], "coco, lvis, objects365"),
        (["--class-agnostic", "--iou-type", "segm"], "--class-agnostic: only with --predictions"),
        (["--predictions", "dt.json"], "--annotations FILE"),
        (["--predictions", "dt.json", "--annotations", "gt.json"], "gt.json: there is no such annotation file"),
        (["runs/a", "runs/b"], "one run, checkpoint or spec at a time, not runs/a, runs/b"),
    ],
)
def test_options_that_do_not_go_together(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["eval", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_model_on_the_data_that_it_was_trained_on(trained: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "runs/x", "--per-class", "--json", "figures.json"]) == 0
    assert trained == ["runs/x"]
    # Each picture is twice as large for the model, so its boxes come back to the pixel.
    assert values(capsys.readouterr().out)["AP75"] == "1.000"
    written = json.loads(Path("figures.json").read_text())
    assert written["AP75"] == written["AP50"] == pytest.approx(1, abs=1e-12)
    assert written["settings"] == {
        "model": "runs/x",
        "data": "squares",
        "annotations": "squares/annotations/instances_val.json",
        "evaluator": "hotcoco",
        "protocol": "coco",
        "max_detections": 100,
        "fixed_ap": False,
        "branch": "detr",
        "batch_size": 2,
        "test_time": None,
        "precision": "fp32",
        "iou_type": "bbox",
    }


def test_the_newest_run_if_none_is_named(trained: list[str]) -> None:
    Path("runs/newest").mkdir(parents=True)
    Path("runs/newest/spec.yaml").touch()
    assert main(["eval"]) == 0
    assert trained == ["runs/newest"]


def test_a_head_on_its_own(trained: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "runs/x", "--branch", "atss"]) == 0
    assert values(capsys.readouterr().out)["AP50"] == "0.000"  # the head calls every square a hole
    assert main(["eval", "runs/x", "eval.branch=fcos"]) == 2
    assert "no branch 'fcos'. It has detr, atss." in capsys.readouterr().err


def test_another_data_set(trained: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    data_set(Path("same"))
    data_set(Path("other"), classes=("square", "circle"))
    assert main(["eval", "runs/x", "--dataset", "same"]) == 0
    assert main(["eval", "runs/x", "data=same", "eval.max_detections=10"]) == 0
    assert main(["eval", "runs/x", "--dataset", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_data_set_with_other_classes(trained: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    data_set(Path("other"), classes=("square", "circle"))
    assert main(["eval", "runs/x", "--dataset", "other", "--json", "figures.json"]) == 0
    printed = capsys.readouterr().out
    for line in (
        "the model knows 1 of the data set's 2 classes",
        "1 it cannot know: circle",
        "1 of its own are not in the data set: hole",
        "0 detections of these were dropped from the best of 2 images",
        "all 2 classes",
        "the 1 class that the model knows",
    ):
        assert f"{line}\n" in printed
    written = json.loads(Path("figures.json").read_text())
    assert written["matched_classes"]["AP75"] == written["AP75"] == pytest.approx(1, abs=1e-12)
    assert written["classes"] == {
        "matched": ["square"],
        "matched_under_another_name": {},
        "unknown_to_the_model": ["circle"],
        "not_in_the_data": ["hole"],
        "dropped_detections": 0,
    }
    # The head says hole of every square, and the data have none.
    assert main(["eval", "runs/x", "--dataset", "other", "--branch", "atss"]) == 0
    assert "2 detections of these were dropped" in capsys.readouterr().out
    data_set(Path("alien"), classes=("planet", "star"))
    assert main(["eval", "runs/x", "--dataset", "alien"]) == 2
    error = capsys.readouterr().err
    assert "no class in common: the model knows square, hole; the data set has planet, star" in error


def test_a_submission(trained: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(Path("squares/annotations/instances_val.json").read_text())
    images = {key: content[key] for key in ("images", "categories")}
    Path("image_info_test-dev2017.json").write_text(json.dumps(images))
    inputs = ["eval", "runs/x", "--annotations", "image_info_test-dev2017.json", "--images", "squares/images"]
    assert main([*inputs, "--submission", "out/mine.zip", "--json", "figures.json"]) == 0
    printed = capsys.readouterr().out
    assert "wrote 2 boxes in 2 images to out/mine.zip as detections_test-dev2017_mine_results.json\n" in printed
    assert "no annotations to score against; upload the file: https://cocodataset.org/#upload\n" in printed
    assert "AP" not in printed
    with zipfile.ZipFile("out/mine.zip") as archive:
        assert archive.namelist() == ["detections_test-dev2017_mine_results.json"]
        entries = json.loads(archive.read(archive.namelist()[0]))
    assert entries == [
        {"image_id": 1, "category_id": 3, "bbox": [40.0, 20.0, 32.0, 48.0], "score": 0.9},
        {"image_id": 2, "category_id": 3, "bbox": [8.0, 16.0, 64.0, 64.0], "score": 0.9},
    ]
    assert json.loads(Path("figures.json").read_text())["submission"] == {"file": "out/mine.zip", "detections": 2}
    assert main(inputs) == 2
    assert "there are no annotations to score against" in capsys.readouterr().err
    assert main([*inputs, "--submission", "mine.txt"]) == 2
    assert "Name it mine.zip" in capsys.readouterr().err


def test_a_submission_of_images_with_annotations_is_scored(
    trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "runs/x", "--submission", "mine.json"]) == 0
    printed = capsys.readouterr().out
    assert values(printed.splitlines()[2])["AP75"] == "1.000"
    assert "wrote 2 boxes in 2 images to mine.json\n" in printed
    assert "upload" not in printed
    annotations = "squares/annotations/instances_val.json"
    assert main(["eval", "--predictions", "mine.json", "--annotations", annotations]) == 0
    assert values(capsys.readouterr().out)["AP75"] == "1.000"


def test_augmentation_at_test_time(trained: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "runs/x", "--tta", "--json", "figures.json"]) == 0
    assert values(capsys.readouterr().out)["AP50"] == "1.000"
    assert json.loads(Path("figures.json").read_text())["settings"]["test_time"]["fusion"] == "wbf"


def test_the_rules_follow_the_annotations(shared: Path, tmp_path: Path) -> None:
    folder, file = shared / "data" / "eval", tmp_path / "figures.json"
    expected = json.loads((folder / "expected.json").read_text())["stats"]
    inputs = ["eval", "--predictions", str(folder / "lvis_val_100_dt.json")]
    inputs += ["--annotations", str(folder / "lvis_val_100.json"), "--json", str(file)]
    for options in ([], ["--dataset", "lvis"], ["--protocol", "lvis"]):
        assert main([*inputs, *options]) == 0
        written = json.loads(file.read_text())
        stats = expected["lvis_val_100/bbox"]
        assert {name: written[name] for name in stats} == pytest.approx(stats, abs=5e-7)
    for options in (["--dataset", "coco"], ["--protocol", "coco"], ["--class-agnostic"]):
        assert main([*inputs, *options]) == 0
        assert "APr" not in json.loads(file.read_text())
    assert main([*inputs, "--fixed-ap"]) == 0
    assert json.loads(file.read_text())["settings"]["fixed_ap"] is True
    assert main([*inputs, "--fixed-ap", "--dataset", "coco"]) == 2


def test_the_model_itself_cannot_be_changed(trained: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "runs/x", "base.num_queries=10"]) == 2
    assert "only data.*, eval.* and postprocess.* can be changed here" in capsys.readouterr().err
