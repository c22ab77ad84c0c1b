from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from codetr.cli.main import main
from codetr.cli.text import printable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with one unknown category, in a file whose name would be markup."""
    root = tmp_path / "set"
    for name in ("images", "annotations"):
        (root / name).mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(root / "images" / "[red]x.png")
    content = {
        "images": [{"id": 1, "file_name": "[red]x.png", "width": 40, "height": 30}],
        "annotations": [
            {"id": 8, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0},
            {"id": 9, "image_id": 1, "category_id": 5, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0},
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (root / "annotations/instances_train.json").write_text(json.dumps(content))
    return root


def test_check_names_file_and_annotation_and_exits_with_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(folder)]) == 2
    out = capsys.readouterr().out
    assert "annotations of unknown categories" in out
    assert "[red]x.png, image id 1, annotation id 9: category id 5 is not in the file" in out
    assert "1 images, 2 annotations, 1 categories" in out
    assert "errors: 1, notes: 0" in out


def test_fix_writes_a_usable_copy(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, file = tmp_path / "clean", tmp_path / "found.json"
    assert main(["data", "check", str(folder), "--fix", str(out), "--json", str(file)]) == 0
    assert f"data={out}" in capsys.readouterr().out
    assert main(["data", "check", str(out)]) == 0
    assert "nothing wrong" in capsys.readouterr().out
    content = json.loads(file.read_text())
    assert (content["errors"], content["notes"]) == (1, 0)
    assert content["splits"]["train"]["findings"][0]["annotation_id"] == 9


def test_notes_alone_exit_with_0(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "annotations": []}))
    assert main(["data", "check", str(folder)]) == 0
    assert "errors: 0, notes: 2" in capsys.readouterr().out


def test_one_annotation_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "annotations/instances_train.json"
    file.rename(folder / "labels.json")
    arguments = ["data", "check", str(folder), "--annotations", str(folder / "labels.json")]
    assert main(arguments) == 2
    assert main([*arguments, "--images", str(folder / "none")]) == 2
    assert "name the images with --images" in capsys.readouterr().err


def test_a_wrong_folder_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(tmp_path / "none")]) == 2
    error = capsys.readouterr().err
    assert "no folder" in error and "Traceback" not in error


@pytest.mark.parametrize("arguments", [["--quick", "--fix", "x"], ["--images", "x"]])
def test_options_that_do_not_go_together(folder: Path, arguments: list[str]) -> None:
    assert main(["data", "check", str(folder), *arguments]) == 2


def test_synth_makes_a_folder_that_passes_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "scenes"
    options = ["--train", "3", "--val", "2", "--size", "64", "--objects", "1", "3", "--workers", "1", "--seed", "4"]
    assert main(["data", "synth", str(root), *options]) == 0
    assert f"data={root}" in capsys.readouterr().out
    assert main(["data", "check", str(root)]) == 0
    assert main(["data", "synth", str(root), "--train", "0"]) == 2


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[31mb\nc\u00e9") == "a\\x1b[31mb\nc\u00e9"


def test_synth_makes_a_long_tail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "tail"
    size = ["--train", "2", "--val", "1", "--size", "32", "--workers", "1"]
    assert main(["data", "synth", str(root), *size, "--lvis", "--classes", "7", "--groups", "1", "2"]) == 0
    content = json.loads((root / "annotations/lvis_v1_train.json").read_text())
    assert len(content["categories"]) == 7 and {k["frequency"] for k in content["categories"]} <= {"r", "c"}
    assert main(["data", "synth", str(tmp_path / "other"), *size, "--classes", "7"]) == 2
    assert "--classes need --lvis" in capsys.readouterr().err
