"""The table, the record and the picture of an inspected assignment."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from codetr.errors import UserError
from codetr.inspection import picture
from codetr.inspection.assignment import MATCHED, Branch
from codetr.inspection.report import Inspection, as_record, assignment_table, printable


def found(names: tuple[str, ...] = ("chair", "chair")) -> Inspection:
    boxes = torch.tensor([[10.0, 10, 60, 70], [70, 30, 120, 80]])[torch.arange(len(names)) % 2]
    matched = Branch(MATCHED, "detr", boxes[:1], torch.tensor([0]), None, (), "boxes")
    around = torch.tensor([[2.0, 8, 34, 40], [10, 8, 42, 40], [64, 24, 128, 88]])
    atss = Branch("atss", "atss", around, torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1]), (8, 16), "points")
    return Inspection(torch.full((3, 96, 128), 200, dtype=torch.uint8), boxes, names, (matched, atss), "a.jpg", "mine")


def text(inspection: Inspection) -> str:
    console = Console(width=100, file=StringIO())
    with console.capture() as captured:
        console.print(assignment_table(inspection))
    return captured.get()


def test_the_table() -> None:
    lines = [line.split() for line in text(found()).splitlines()]
    assert ["object", "Hungarian", "atss"] in lines
    assert ["1", "chair", "1", "2"] in lines and ["2", "chair", "0", "1"] in lines
    assert ["all", "1", "3"] in lines and ["an", "object", "0.5", "1.5"] in lines


def test_the_table_of_many_objects_is_cut_and_complete_below() -> None:
    lines = [line.split() for line in text(found(("chair",) * 50)).splitlines()]
    assert ["and", "10", "more", "0", "0"] in lines and ["all", "1", "3"] in lines


def test_names_are_texts_and_nothing_else() -> None:
    assert printable("a\x1b[31mb\n") == "a\\x1b[31mb\\n"
    assert "[bold]chair[/bold]" in text(found(("[bold]chair[/bold]", "cat")))


def test_the_record() -> None:
    record = as_record(found())
    assert record["size"] == [96, 128]
    assert record["objects"][1] == {"number": 2, "name": "chair", "box": [70.0, 30.0, 120.0, 80.0]}
    matched, atss = record["branches"]
    assert matched["positives"] == [{"object": 1, "stride": None, "box": [10.0, 10.0, 60.0, 70.0]}]
    assert (atss["counts"], atss["strides"]) == ([2, 1], [8, 16])
    assert [entry["stride"] for entry in atss["positives"]] == [8, 8, 16]


# The last has letters that the font lacks, a formula, and a name of any length.
@pytest.mark.parametrize("names", [("chair", "chair"), ("chair",) * 50, ("$\\bad{$", "\u6905" * 60)])
def test_the_picture(names: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "folder" / "assign.png"
    picture.draw(found(names), file)
    with Image.open(file) as image:
        colours = image.convert("RGB").getcolors(image.width * image.height) or []
    assert len(colours) > 100
    present = {colour for _, colour in colours}
    assert tuple(bytes.fromhex(picture.colour_of(0)[1:])) in present


def test_one_branch_has_a_picture_too(tmp_path: Path) -> None:
    inspection = found()
    alone = Inspection(
        inspection.image, inspection.boxes, inspection.names, inspection.branches[:1], inspection.file, inspection.model
    )
    picture.draw(alone, tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the picture cannot be written"):
        picture.draw(found(), tmp_path / "a.nonsense")


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"-o needs matplotlib: pip install 'codetr\[plot\]'"):
        picture.require_matplotlib("-o")
