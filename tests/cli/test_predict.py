"""`codetr predict`: which files, what is written, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from codetr.api import build
from codetr.cli.main import main
from codetr.cli.predict import image_files, picture_names
from codetr.data.images import image_size
from codetr.engine.checkpoint import Meta, save_checkpoint
from codetr.errors import UserError
from codetr.spec import load_spec

SPEC: dict[str, Any] = {
    "extends": ["bases/deformable_detr_pp", "backbones/resnet50"],
    "base": {
        "num_queries": 8,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "num_heads": 2,
        "num_points": 2,
        "ffn_dim": 16,
    },
    "backbone": {"model": "resnet10t", "pretrained": False, "options": {"channels": [8, 8, 8, 8], "stem_width": 8}},
    "neck": {"dim": 16, "num_groups": 4, "num_levels": 3},
    "data": {"resize": {"size": 64, "max_size": 64}},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained detector of two classes, which scores everything about 0.01."""
    folder = tmp_path_factory.mktemp("checkpoint") / "last"
    meta = Meta(("cat", "dog"), (7, 90), load_spec(SPEC).model_dump(mode="json"))
    save_checkpoint(folder, build(SPEC, classes=2).state_dict(), meta)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name, size in (("b.png", (40, 30)), ("a.jpg", (20, 50)), ("more/a.png", (32, 32))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    return folder


def predict(*arguments: object) -> int:
    return main(["predict", *map(str, arguments), "--device", "cpu"])


def test_pictures_and_results_are_written(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    line = (photos, photos / "more" / "a.png", "--checkpoint", checkpoint, "--out", out)
    assert predict(*line, "--score", 0.001, "--batch", 2) == 0
    written = {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}
    assert written == {"a.jpg", "b.jpg", "more/a.jpg", "a-2.jpg", "predictions.json", "images.json"}
    images = json.loads((out / "images.json").read_text())
    files = [str(photos / name) for name in ("a.jpg", "b.png", "more/a.png", "more/a.png")]
    assert [(entry["id"], entry["file_name"]) for entry in images] == list(enumerate(files, start=1))
    assert [(entry["width"], entry["height"]) for entry in images] == [(20, 50), (40, 30), (32, 32), (32, 32)]
    results = json.loads((out / "predictions.json").read_text())
    found = [entry["image_id"] for entry in results]
    assert set(found) == {1, 2, 3, 4} and found == sorted(found)  # although they were detected by size
    assert {entry["category_id"] for entry in results} <= {7, 90}
    for entry in results:
        x, y, width, height = entry["bbox"]
        size = images[entry["image_id"] - 1]
        assert x >= 0 and y >= 0 and x + width <= size["width"] + 1e-3 and y + height <= size["height"] + 1e-3
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[-1] == f"4 of 4 images, pictures, predictions.json and images.json in {out}"
    assert any(line.startswith(f"{files[0]}: ") and line.endswith(f"-> {out}/a.jpg") for line in lines)


def test_nothing_above_the_score_is_no_error(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(photos / "b.png", "--checkpoint", checkpoint, "--out", tmp_path / "out", "--score", 1) == 0
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == []
    assert "nothing found" in capsys.readouterr().out


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_done(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = photos / "b.png", tmp_path / "out"
    file.write_bytes(file.read_bytes()[:500])
    (photos / "empty.jpg").write_bytes(b"")
    for batch in (1, 2):
        assert predict(photos, "--checkpoint", checkpoint, "--out", out, "--batch", batch) == 2
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        assert len(lines) == 3 and lines[-1] == "error: 2 of 4 images could not be used; they are named above."
        assert all(sum(f"{photos / name}: " in line for line in lines) == 1 for name in ("b.png", "empty.jpg"))
        assert captured.out.splitlines()[-1].startswith("2 of 4 images, pictures, ")
        assert [entry["id"] for entry in json.loads((out / "images.json").read_text())] == [1, 4]  # places in the list


def test_a_checkpoint_that_is_not_there(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(photos, "--checkpoint", photos / "nowhere") == 2
    assert "nowhere" in capsys.readouterr().err


def test_files_and_folders(photos: Path) -> None:
    found = image_files([photos / "b.png", photos])
    assert [file.path for file in found] == [photos / name for name in ("b.png", "a.jpg", "b.png", "more/a.png")]
    assert [str(file.drawn) for file in found] == ["b.jpg", "a.jpg", "b-2.jpg", "more/a.jpg"]
    for hidden in (".cache/c.png", "more/._a.png"):
        (photos / hidden).parent.mkdir(exist_ok=True)
        (photos / hidden).touch()
    assert len(image_files([photos])) == 3
    assert [file.path.name for file in image_files([photos], leave_out=photos / "more")] == ["a.jpg", "b.png"]
    (photos / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no images in this folder"):
        image_files([photos / "empty"])
    with pytest.raises(UserError, match=r"b\.pgn: there is no such image or folder; did you mean 'b\.png'\?"):
        image_files([photos / "b.pgn"])
    with pytest.raises(UserError, match=r"there is no folder .*nowhere either"):
        image_files([photos / "nowhere" / "a.png"])


def test_pictures_of_one_name_do_not_overwrite_each_other() -> None:
    files = [Path(name) for name in ("x.jpg", "x.png", "x-2.jpg", "X.bmp", "a/x.png")]
    assert [str(name) for name in picture_names(files)] == ["x.jpg", "x-2.jpg", "x-2-2.jpg", "X-3.jpg", "a/x.jpg"]


def test_a_turned_picture_is_detected_in_upright(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    """The same pixels stored upright, and lying with the note that they are to be turned: the same detections."""
    upright = np.random.default_rng(1).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    note = Image.Exif()
    note[0x0112] = 6  # the first stored row is the right side
    folder = tmp_path / "turned"
    folder.mkdir()
    Image.fromarray(upright).save(folder / "a.png")
    Image.fromarray(np.rot90(upright).copy()).save(folder / "b \u00e9.png", exif=note)
    out = tmp_path / "out"
    assert predict(folder, "--checkpoint", checkpoint, "--out", out, "--score", 0) == 0
    plain, turned = json.loads((out / "images.json").read_text())
    assert (turned["width"], turned["height"], turned.pop("exif_orientation")) == (60, 40, 6)
    assert {**turned, "id": 1, "file_name": plain["file_name"]} == plain
    results = json.loads((out / "predictions.json").read_text())
    first, second = ([{**e, "image_id": 0} for e in results if e["image_id"] == number] for number in (1, 2))
    assert first == second and len(first) > 0
    assert image_size(out / "b \u00e9.jpg") == image_size(out / "a.jpg")


def test_settings_of_evaluation_can_be_changed(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = (photos, "--checkpoint", checkpoint, "--score", 0, "--no-pictures", "--batch", 3)

    def boxes(*further: str) -> int:
        assert predict(*line, "--out", tmp_path / "out", *further) == 0
        return len(json.loads((tmp_path / "out" / "predictions.json").read_text()))

    assert boxes() == 3 * 16  # queries times classes of three images
    assert boxes("eval.max_detections=5") == 3 * 5
    assert boxes("postprocess.soft_nms={min_score: 0.99}") == 0
    assert boxes("--tta", "eval.max_detections=40", "eval.test_time={scales: [32, 48], iou: 1}") == 3 * 40
    assert not list((tmp_path / "out").glob("*.jpg"))
    capsys.readouterr()
    assert predict(*line, "--out", tmp_path / "out", "base.num_queries=9") == 2
    assert "only data.*, eval.* and postprocess.* can be changed here" in capsys.readouterr().err
