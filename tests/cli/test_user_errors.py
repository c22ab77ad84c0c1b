"""What a person gets wrong, through the whole command line: one message on stderr, code 2, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from codetr.cli.main import main
from codetr.engine.run_folder import RunFolder

SPEC = """\
extends: [bases/deformable_detr_pp, backbones/resnet50]
base: {num_queries: 8, encoder_layers: 1, decoder_layers: 1, num_heads: 2, num_points: 2, ffn_dim: 16}
backbone: {model: resnet10t, pretrained: false, frozen_stages: -1, options: {channels: [8, 8, 8, 8], stem_width: 8}}
neck: {dim: 32, num_groups: 4, num_levels: 3}
heads: {atss: {}}
data: {dir: set, workers: 0, augment: null, resize: {size: 64, max_size: 64}}
train: {epochs: 1, batch_size: 2, device: cpu, eval_every: null}
"""
TRAIN, VAL = "set/annotations/instances_train.json", "set/annotations/instances_val.json"
CURE = (
    "`codetr data check` lists every such entry, and its `--fix OUT` writes a copy in which they are mended or left out"
)


def data_set(folder: Path, *classes: str) -> None:
    """Four pictures of noise, each with an object of the first class; both splits are the same."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    content: dict[str, Any] = {"images": [], "annotations": []}
    content["categories"] = [{"id": index + 1, "name": name} for index, name in enumerate(classes)]
    for number in range(1, 5):
        noise = np.random.default_rng(number).integers(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{number}.jpg")
        box = {"bbox": [8, 8, 20, 20], "area": 400, "iscrowd": 0}
        content["images"].append({"id": number, "file_name": f"{number}.jpg", "width": 64, "height": 64})
        content["annotations"].append({"id": 10 + number, "image_id": number, "category_id": 1, **box})
    for split in ("train", "val"):
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: tiny.yaml, and the data set `set` of cats and dogs that it trains on."""
    monkeypatch.chdir(tmp_path)
    data_set(Path("set"), "cat", "dog")
    Path("tiny.yaml").write_text(SPEC)
    return tmp_path


def alter(file: str, change: Callable[[Any], object]) -> None:
    content = json.loads(Path(file).read_text())
    change(content)
    Path(file).write_text(json.dumps(content))


def cut_short(file: str) -> None:
    content = Path(file).read_bytes()
    Path(file).write_bytes(content[: len(content) // 2])


@pytest.fixture
def error(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a line that must fail, and returns its message."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert main(arguments) == 2
        written = capsys.readouterr()
        assert written.err.startswith("error: ") and written.err.count("error: ") == 1
        assert "Traceback" not in written.err + written.out
        return written.err.removeprefix("error: ").rstrip("\n")

    return run


def test_mistakes_in_a_spec_are_named_at_once(place: Path, error: Callable[..., str]) -> None:
    Path("typo.yaml").write_text(SPEC.replace("num_queries", "num_quries").replace("epochs: 1", "epochs: one"))
    assert error("train", "typo.yaml", "train.batchsize=4").splitlines() == [
        "3 errors in the spec 'typo':",
        "  typo.yaml:2: base.num_quries: unknown key; did you mean 'num_queries'?",
        "  typo.yaml:7: train.epochs: found 'one', must be a whole number",
        "  command line: train.batchsize: unknown key; did you mean 'batch_size'?",
    ]
    assert not Path("runs").exists()


def test_what_is_no_yaml_is_named_by_line_and_where_it_began(place: Path, error: Callable[..., str]) -> None:
    Path("broken.yaml").write_text(SPEC.replace("{atss: {}}", "{atss: {}"))
    assert error("train", "broken.yaml") == (
        "broken.yaml:6:1: not valid YAML: expected ',' or '}', but got '<scalar>' "
        "(while parsing a flow mapping, which begins in line 5)"
    )


def test_the_name_of_a_spec(place: Path, error: Callable[..., str]) -> None:
    assert error("train", "tinny.yaml") == ("no file and no zoo spec is called 'tinny.yaml'; did you mean 'tiny.yaml'?")
    assert error("train", "co_deformabel_r50").endswith("did you mean 'co_deformable_r50'?")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("sett", "data.dir: no folder sett; did you mean set?"),
        ("far/away", "data.dir: no folder far/away (nor the folder far)"),
        (VAL, f"data.dir: {VAL} is a file, not a folder; use data.train.annotations"),
    ],
)
def test_a_wrong_data_set(place: Path, error: Callable[..., str], data: str, message: str) -> None:
    assert error("train", "tiny.yaml", f"data={data}") == message


def test_a_folder_of_the_data_set_in_place_of_the_data_set(place: Path, error: Callable[..., str]) -> None:
    message = error("train", "tiny.yaml", "data=set/images")
    assert message.startswith("data.dir: no train annotations in set/images; found there: 1.jpg, 2.jpg, 3.jpg, 4.jpg")
    assert f"did you mean data={place}/set?" in message


def test_a_missing_image(place: Path, error: Callable[..., str]) -> None:
    Path("set/images/2.jpg").unlink()
    assert error("train", "tiny.yaml") == (
        f"{TRAIN}: 1 of 4 images are not in set/images: 2.jpg (image id 2); "
        "name their folder with data.train.images or data.val.images, or see `codetr data check`"
    )


def test_an_unknown_category(place: Path, error: Callable[..., str]) -> None:
    alter(TRAIN, lambda content: content["annotations"][1].update(category_id=5))
    assert error("train", "tiny.yaml") == (
        f"{TRAIN}: annotation id 12: category_id 5 is not among the file's categories "
        f"(2 categories, ids 1 to 2); {CURE}"
    )


@pytest.mark.parametrize("name", ["../../secret.jpg", "/etc/passwd", "../images/1.jpg"])
def test_a_file_name_that_leaves_the_data_folder(place: Path, error: Callable[..., str], name: str) -> None:
    Image.new("RGB", (64, 64)).save("secret.jpg")
    alter(TRAIN, lambda content: content["images"][1].update(file_name=name))
    message = f"{TRAIN}: image id 2: file_name {name!r} leads out of the image folder set/images; {CURE}"
    assert error("train", "tiny.yaml") == message


def test_the_same_mistakes_in_the_images_of_evaluation(place: Path, error: Callable[..., str]) -> None:
    """They come out before the first step, not after the first epoch."""
    alter(VAL, lambda content: content["annotations"][1].update(category_id=5))
    assert error("train", "tiny.yaml", "train.eval_every=1").startswith(f"{VAL}: annotation id 12: category_id 5 ")
    assert not Path("runs").exists()


def test_a_truncated_jpeg_stops_and_is_named(place: Path, error: Callable[..., str]) -> None:
    cut_short("set/images/2.jpg")
    message = error("train", "tiny.yaml")
    assert message.startswith("set/images/2.jpg: truncated or damaged (")
    assert message.endswith("; data.on_bad_image=skip leaves such images out")


@pytest.mark.filterwarnings("always::codetr.errors.Notice")  # Python itself would hide a repetition
def test_a_truncated_jpeg_is_left_out_with_one_warning_if_asked(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_short("set/images/2.jpg")
    assert main(["train", "tiny.yaml", "data.on_bad_image=skip", "train.epochs=2"]) == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(warned) == 1
    assert warned[0].startswith("warning: left out: set/images/2.jpg: truncated or damaged (")
    steps = [json.loads(line)["step"] for line in Path("runs/tiny/metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 4  # two epochs of two full batches: another image stands in


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on cats and dogs."""
    folder = tmp_path_factory.mktemp("trained")
    data_set(folder / "set", "cat", "dog")
    (folder / "tiny.yaml").write_text(SPEC)
    line = ["train", str(folder / "tiny.yaml"), f"data={folder / 'set'}", "--out", str(folder / "run")]
    assert main([*line, "--max-steps", "1"]) == 0
    return folder / "run"


def test_a_checkpoint_of_another_class_count(place: Path, run: Path, error: Callable[..., str]) -> None:
    data_set(Path("three"), "cat", "dog", "cow")
    data_set(Path("other"), "cow", "hen")
    assert error("eval", str(run), "--dataset", "other").startswith("other/annotations/instances_val.json: ")
    assert error("train", "--resume", str(run), "data=three") == (
        f"{run}/checkpoints/step_00000001 was trained for 2 classes (cat, dog); three/annotations/instances_train.json "
        "has 3 classes (cat, dog, cow). Use a data set with the same categories, or train on this one."
    )


def test_a_checkpoint_that_is_none(place: Path, run: Path, error: Callable[..., str]) -> None:
    assert error("eval", "set") == ("set: this is no run: it has no spec.yaml. There are no runs in runs/ yet.")
    weights = Path("model.safetensors")
    weights.write_bytes((RunFolder(run).last / "model.safetensors").read_bytes()[:1000])
    message = error("predict", "set/images", "--checkpoint", str(weights))
    assert message.startswith("model.safetensors: the file is damaged or was cut short: ")


def test_images_that_cannot_be_predicted(
    place: Path, run: Path, error: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = ("--checkpoint", str(run), "--device", "cpu")
    assert error("predict", "set/images/2.jpeg", *checkpoint) == (
        "set/images/2.jpeg: there is no such image or folder; did you mean '2.jpg'?"
    )
    cut_short("set/images/2.jpg")
    assert main(["predict", "set/images/2.jpg", *checkpoint]) == 2
    left_out, error_line = capsys.readouterr().err.splitlines()
    assert left_out.startswith("left out: set/images/2.jpg: truncated or damaged (")
    assert error_line == "error: 1 of 1 images could not be used; they are named above."


def test_the_process_itself_exits_with_code_2(place: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "codetr.cli.main", "train", "tiny.yaml", "data=sett"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: data.dir: no folder sett; did you mean set?\n"
