from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from codetr.cli.main import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(root / "images" / split / "a.png")
        (root / "labels" / split / "a.txt").write_text("0 .5 .5 .5 .5\n")
    (root / "classes.txt").write_text("cat\n")
    return root


def test_it_prints_the_counts_of_every_split(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["data", "convert", str(folder), "-o", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"train: 1 images (linked), 1 annotations, 1 categories: {out}/annotations/instances_train.json",
        f"val: 1 images (linked), 1 annotations, 1 categories: {out}/annotations/instances_val.json",
        f"{folder} (YOLO) is now in {out} (COCO); use it with data={out}",
    ]
    assert main(["data", "check", str(out)]) == 0


def test_copies_are_counted(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "convert", str(folder), "--out", str(tmp_path / "out"), "--copy"]) == 0
    assert "1 images (1 copied)" in capsys.readouterr().out


def test_errors_exit_with_2(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "convert", str(folder)]) == 2
    assert "--out" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["data", "convert", str(tmp_path / "empty"), "-o", str(tmp_path / "out")]) == 2
    assert "Pascal VOC: Annotations/*.xml with ImageSets/Main/train.txt" in capsys.readouterr().err
