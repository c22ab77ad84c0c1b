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
    assert {file.name for file in out.iterdir()} == {"a.jpg", "b.jpg", "a-2.jpg", "predictions.json", "images.json"}
    images = json.loads((out / "images.json").read_text())
    files = [str(photos / "a.jpg"), str(photos / "b.png"), str(photos / "more" / "a.png")]
    assert [(entry["id"], entry["file_name"]) for entry in images] == list(enumerate(files, start=1))
    assert [(entry["width"], entry["height"]) for entry in images] == [(20, 50), (40, 30), (32, 32)]
    results = json.loads((out / "predictions.json").read_text())
    assert {entry["image_id"] for entry in results} == {1, 2, 3}
    assert {entry["category_id"] for entry in results} <= {7, 90}
    for entry in results:
        x, y, width, height = entry["bbox"]
        size = images[entry["image_id"] - 1]
        assert x >= 0 and y >= 0 and x + width <= size["width"] + 1e-3 and y + height <= size["height"] + 1e-3
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[0].startswith(f"{files[0]}: ") and lines[0].endswith(f"-> {out}/a.jpg")


def test_nothing_above_the_score_is_no_error(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(photos / "b.png", "--checkpoint", checkpoint, "--out", tmp_path / "out", "--score", 1) == 0
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == []
    assert "nothing found" in capsys.readouterr().out


def test_an_image_that_cannot_be_read_is_named(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = photos / "b.png"
    file.write_bytes(file.read_bytes()[:500])
    assert predict(file, "--checkpoint", checkpoint, "--out", tmp_path / "out") == 2
    assert f"{file}: truncated or not an image" in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(photos, "--checkpoint", photos / "nowhere") == 2
    assert "nowhere" in capsys.readouterr().err


def test_files_and_folders(photos: Path) -> None:
    assert image_files((photos / "b.png", photos)) == [photos / "b.png", photos / "a.jpg", photos / "b.png"]
    (photos / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no images in this folder"):
        image_files((photos / "empty",))
    with pytest.raises(UserError, match=r"b\.pgn: there is no such image or folder; did you mean 'b\.png'\?"):
        image_files((photos / "b.pgn",))
    with pytest.raises(UserError, match=r"there is no folder .*nowhere either"):
        image_files((photos / "nowhere" / "a.png",))


def test_pictures_of_one_name_do_not_overwrite_each_other() -> None:
    files = [Path("a/x.jpg"), Path("b/x.png"), Path("x-2.jpg"), Path("c/x.bmp")]
    assert list(picture_names(files)) == ["x.jpg", "x-2.jpg", "x-2-2.jpg", "x-3.jpg"]
