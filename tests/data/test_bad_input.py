"""Every row of `bad_input.py`: what the check says, what loading says, what a cleaned copy keeps; and the page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bad_input import LOADS, ROWS, Folder, Row, encoded, flat_jpeg, noise, png

from codetr.cli.main import main
from codetr.data.check import check_folder
from codetr.data.coco import CocoDataset, open_split
from codetr.data.config import DataConfig
from codetr.data.findings import Kind, Report
from codetr.data.images import load_image
from codetr.errors import UserError

PAGE = Path(__file__).parents[2] / "docs/bad_input.md"
QUIET = (Kind.NO_BOXES, Kind.UNUSED_CATEGORY)  # in any set as small as these

as_a_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def spoilt(row: Row, root: Path) -> Path:
    if row.name == "an image that may not be read" and os.geteuid() == 0:
        pytest.skip("the superuser may read every file")
    folder = Folder(root)
    row.make(folder)
    folder.write()
    return root


def agrees(message: str, expected: str, root: Path) -> bool:
    """Compares the first line; a text that ends in ... with the start of it."""
    first = message.split("\n", 1)[0].replace(str(root), "DIR")
    assert first == expected or (expected.endswith("...") and first.startswith(expected[:-3]))
    return True


def said(reports: list[Report]) -> str:
    """The first finding of each kind, in the words of the table."""
    first: dict[Kind, str] = {}
    for finding in (finding for report in reports for finding in report.findings):
        if finding.kind not in QUIET:
            first.setdefault(finding.kind, f"{finding.kind.name.lower()}: {finding.detail}")
    return "; ".join(first.values())


def loaded(root: Path, *, masks: bool = False) -> CocoDataset:
    data = open_split(DataConfig(dir=root, masks=masks), "train")
    for index in range(len(data)):
        sample = data[index]
        assert sample.image.shape[0] == 3 and sample.image.dtype.is_floating_point is False
    return data


@as_a_row
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_the_check_says_what_is_wrong(row: Row, tmp_path: Path) -> None:
    root = spoilt(row, tmp_path / "set")
    try:
        reports = check_folder(root)
    except UserError as error:
        assert row.keeps is None
        assert agrees(str(error), row.finds, root)
    else:
        assert agrees(said(reports), row.finds, root)


@as_a_row
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_loading_says_what_is_wrong(row: Row, tmp_path: Path) -> None:
    root = spoilt(row, tmp_path / "set")
    try:
        loaded(root, masks=row.masks)
    except UserError as error:
        assert agrees(str(error), row.loads, root)
    else:
        assert row.loads == LOADS


@as_a_row
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_cleaned_copy_loads_and_keeps_what_is_good(
    row: Row, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out, found = spoilt(row, tmp_path / "set"), tmp_path / "clean", tmp_path / "found.json"
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    code = main(["data", "check", str(root), "--fix", str(out), "--json", str(found)])
    assert {path: path.lstat().st_mtime_ns for path in root.rglob("*")} == before
    output = capsys.readouterr()
    assert "\x1b" not in output.out + output.err  # names from the data drive no terminal
    assert "Traceback" not in output.err
    if row.keeps is None:
        assert code == 2 and output.err.startswith("error: ")
        return
    content = json.loads((out / "annotations/instances_train.json").read_text(encoding="utf-8"))
    assert (len(content["images"]), len(content["annotations"])) == row.keeps
    lasting = {"too_large"} & {f["kind"] for f in json.loads(found.read_text())["splits"]["train"]["findings"]}
    assert code == (2 if lasting else 0)
    if not lasting and "reduced" not in row.finds:  # which takes seconds, and is loaded above
        assert len(loaded(out)) == row.keeps[0]
        assert main(["data", "check", str(out)]) == 0


@pytest.mark.parametrize("name", ["annotation file cut off", "boxes written as corners", "a missing image"])
def test_training_stops_with_the_same_message(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = (row for row in ROWS if row.name == name)
    root = spoilt(row, tmp_path / "set")
    (root / "annotations/instances_val.json").write_text(
        json.dumps({"images": [], "annotations": [], "categories": []})
    )
    code = main(["train", "co_deformable_r50", f"data={root}", "--out", str(tmp_path / "run")])
    assert code == 2
    assert row.loads in capsys.readouterr().err.replace(str(root), "DIR")


def test_sixteen_bits_alpha_and_turned_pixels_are_read_as_they_are_stored(tmp_path: Path) -> None:
    by_name = {row.name: row for row in ROWS}
    root = spoilt(by_name["16-bit colour"], tmp_path / "deep")
    assert load_image(root / "images/subject.png").flatten(1).unique(dim=1).T.tolist() == [[128, 64, 32]]
    root = spoilt(by_name["colour with alpha"], tmp_path / "alpha")
    assert np.array_equal(load_image(root / "images/subject.png").permute(1, 2, 0).numpy(), np.asarray(noise(2)))
    root = spoilt(by_name["a TIFF of several pages"], tmp_path / "pages")
    assert np.array_equal(load_image(root / "images/subject.tif").permute(1, 2, 0).numpy(), np.asarray(noise(2)))


def test_an_inverted_cmyk_jpeg_has_its_colours(tmp_path: Path) -> None:
    """Photoshop stores ink inverted and says so in an Adobe marker, which Pillow writes too."""
    from PIL import Image

    content = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "jpeg", quality=95)
    assert b"Adobe" in content
    (tmp_path / "x.jpg").write_bytes(content)
    red, green, blue = load_image(tmp_path / "x.jpg").flatten(1).float().mean(1).tolist()
    assert red > 240 and green < 15 and blue < 15


MEASURE = """
import resource, sys
from pathlib import Path
from codetr.data.images import BadImage, decode, read_bytes
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    shape = decode(read_bytes(Path(sys.argv[1])), Path(sys.argv[1])).shape
except BadImage as error:
    shape = type(error).__name__
print(shape, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize(
    ("name", "content", "result", "most"),
    [
        # 10,000 x 10,000 x 3 bytes, and a tenth for the file and the decoder.
        ("x.jpg", flat_jpeg(20_000), "(10000, 10000, 3)", 330e6),
        ("x.png", png(20_000, 20_000, 8, 2, b""), "TooManyPixels", 30e6),
    ],
    ids=["JPEG", "PNG"],
)
def test_an_image_of_20000_by_20000_needs_bounded_memory(
    tmp_path: Path, name: str, content: bytes, result: str, most: float
) -> None:
    if sys.platform != "linux":
        pytest.skip("counts memory in kilobytes, as Linux does")
    (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / name)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    shape, _, grown = output.rpartition(" ")
    assert shape == result
    assert int(grown) < most


def rendered() -> str:
    """The table of the page."""
    lines = ["| input | `codetr data check` | training and evaluation | kept by `--fix` |", "|---|---|---|---|"]
    for row in ROWS:
        kept = "nothing is written" if row.keeps is None else f"{row.keeps[0]} images, {row.keeps[1]} boxes"
        cells = (row.name, row.finds or "finds nothing", row.loads, kept)
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    first = text.splitlines()[0].replace("|", "\\|").replace("<", "&lt;")
    return first if len(first) <= 400 else f"{first[:400]}..."


def test_the_page_has_every_row() -> None:
    """WRITE_PAGES=1 writes the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    start, end = text.index("| input |"), text.index("\n\n", text.index("| input |"))
    if os.environ.get("WRITE_PAGES"):
        PAGE.write_text(text[:start] + rendered() + text[end:], encoding="utf-8")
        return
    assert text[start:end] == rendered()
