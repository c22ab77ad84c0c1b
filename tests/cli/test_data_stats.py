from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from codetr.cli.main import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 classes, the names of which are no markup; one image of each split is the same, and one looks alike."""
    root = tmp_path / "set"
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    Image.effect_noise((64, 48), 60).convert("RGB").resize((128, 96)).save(root / "images/a.png")
    with Image.open(root / "images/a.png") as image:
        image.convert("RGB").resize((64, 48)).save(root / "images/b.jpg")
    categories = [{"id": i, "name": f"[red]class\x1b[31m {i}"} for i in range(40)]
    for split, name, size in (("train", "a.png", (128, 96)), ("val", "b.jpg", (64, 48))):
        images = [{"id": 1, "file_name": name, "width": size[0], "height": size[1]}]
        boxes = [
            {"id": i + 1, "image_id": 1, "category_id": i % 30, "bbox": [i, 1, 9, 9], "area": 81} for i in range(35)
        ]
        content = {"images": images, "annotations": boxes, "categories": categories}
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return root


def test_tables_pictures_and_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet, record = tmp_path / "sheet.png", tmp_path / "stats.json"
    assert main(["data", "stats", str(folder), "--pictures", str(sheet), "--json", str(record), "--samples", "2"]) == 0
    output = capsys.readouterr().out
    assert "[red]class\\x1b[31m 0" in output and "\x1b" not in output
    assert "... 10 more classes: --all-classes shows them" in output
    assert "class\\x1b[31m 25 " not in output and "class\\x1b[31m 39 " in output
    assert "30 of 40" in output
    assert "val: 1 images of another split that look like one of the train split" in output
    assert "100 % of the images of val are, or look like, images of train" in output
    content = json.loads(record.read_text())
    assert content["splits"]["train"]["objects"] == 35
    assert [finding["kind"] for finding in content["splits"]["val"]["findings"]] == ["leak"]
    assert content["advice"]
    with Image.open(sheet) as image:
        assert image.format == "PNG" and image.width > 400


def test_annotations_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (folder / "images").iterdir():
        path.unlink()
    assert main(["data", "stats", str(folder), "--no-images", "--all-classes"]) == 0
    output = capsys.readouterr().out
    assert "class\\x1b[31m 25 " in output and "more classes" not in output and "look like" not in output


def test_errors(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith(f"error: data.dir: no folder {tmp_path / 'none'}")
    assert main(["data", "stats", str(folder), "--json", str(tmp_path / "none/x.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main(["data", "stats", str(folder), "--pictures", str(tmp_path / "x.nothing")]) == 2
    assert "use a name such as out.png" in capsys.readouterr().err
