from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from codetr.cli.main import main

SET = {"train": 4, "val": 2, "size": 64}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A spec whose data set is rendered, and small."""
    root = tmp_path_factory.mktemp("scenes")
    changes = [f"data.dir={root}", *[f"data.synthetic.{key}={value}" for key, value in SET.items()]]
    return ["data", "show", "zoo/quickstart.yaml", *changes, "train.batch_size=2"]


def test_a_sheet_of_the_first_images(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sheet.png"
    assert main([*arguments, "-o", str(file), "--images", "3", "--cell", "100"]) == 0
    assert f"{file}: 3 images of train, epoch 0, from " in capsys.readouterr().out
    with Image.open(file) as sheet:
        assert 200 < sheet.width < 330 and 200 < sheet.height < 330  # two columns, two rows


def test_epochs_differ_and_the_same_one_does_not(arguments: list[str], tmp_path: Path) -> None:
    def sheet(*options: str) -> bytes:
        file = tmp_path / "sheet.png"
        assert main([*arguments, "-o", str(file), "--images", "2", *options]) == 0
        return file.read_bytes()

    assert sheet() == sheet("--epoch", "0") != sheet("--epoch", "1")
    assert sheet("--split", "val") == sheet("--split", "val", "--epoch", "1")


def test_copy_paste_on_rendered_masks(arguments: list[str], tmp_path: Path) -> None:
    file = tmp_path / "sheet.jpg"
    recipe = "data.augment={jitter: {size: 128}, copy_paste: {}}"
    assert main([*arguments, "data.masks=true", recipe, "-o", str(file), "--images", "1", "--cell", "64"]) == 0
    with Image.open(file) as sheet:
        assert sheet.width < 80


def test_contradictions_are_one_message(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "data.augment.jitter.size=64"]) == 2
    error = capsys.readouterr().err
    assert "so scales and max_size would have no effect" in error and error.count("\n") == 1


def test_a_file_that_cannot_be_written_is_one_message(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "-o", str(tmp_path / "none" / "x.png"), "--images", "1"]) == 2
    assert "the sheet cannot be written" in capsys.readouterr().err
    assert main([*arguments, "-o", str(tmp_path / "x.unknown"), "--images", "1"]) == 2
    error = capsys.readouterr().err
    assert "name a .png or .jpg with --output" in error and "Traceback" not in error
