"""`codetr wrap`: the file, the panel, what is not overwritten."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import codetr.wrap
from codetr import zoo
from codetr.cli.main import main
from codetr.errors import UserError
from codetr.inspection.counting import Count
from codetr.spec import Spec, load_spec
from codetr.wrap import Part, Positives, WrapReport, wrap_existing, wrap_spec

UNCHANGED = "inference unchanged - detections with and without heads were computed: bit-identical"


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[WrapReport]:
    """What a build would tell, in place of building; the current folder is empty."""
    parts = (
        Part("base", 40_070_000, 39_840_000, 500_000_000_000, ships=True),
        Part("decoder, for positive queries", 0, 0, 9_100_000_000, ships=False),
        Part("head atss", 1_380_000, 1_380_000, 90_900_000_000, ships=False),
    )
    positives = (Positives("atss", 300, Count(positives=60, images=4, objects=8)),)
    answers = [WrapReport(parts, positives, 499_000_000_000, "", "4 rendered scenes", 80, unchanged=True)]
    monkeypatch.setattr(codetr.wrap, "wrap_report", lambda spec, *, has_data: answers[-1])
    monkeypatch.chdir(tmp_path)
    return answers


def wrap(*arguments: str) -> int:
    return main(["wrap", "--base", "deformable_detr", *arguments])


def test_the_file_and_the_panel(report: list[WrapReport], capsys: pytest.CaptureFixture[str]) -> None:
    assert wrap("--aux", "atss", "--aux", "atss", "-o", "mine.yaml") == 0
    assert Path("mine.yaml").read_text() == wrap_spec("deformable_detr", ["atss", "atss"])
    text = capsys.readouterr().out
    panel, _, rest = text.partition("wrote ")
    assert {len(line) for line in panel.splitlines()} == {100} and "\u2026" not in text
    assert rest == "mine.yaml\ntrain it: codetr train mine.yaml data=DIR\n"
    lines = [line.strip("\u2502 ").split() for line in panel.splitlines()]
    assert "mine.yaml" in panel.splitlines()[0]
    assert ["base", "40.07", "39.84", "500.0"] in lines
    assert ["decoder,", "for", "positive", "queries", "9.1"] in lines
    assert ["head", "atss", "1.38", "1.38", "90.9"] in lines
    assert ["a", "training", "step", "41.45", "41.22", "600.0"] in lines
    assert ["inference:", "the", "base", "alone", "40.07", "499.0"] in lines
    assert ["atss", "300", "15.0", "7.5"] in lines
    shown = " ".join(" ".join(line) for line in lines)
    assert UNCHANGED in shown
    assert "a step 20 % dearer - forward, 500.0 GFLOPs without heads, 600.0 with them" in shown
    assert "80 classes" in shown and "4 rendered scenes" in shown


def test_operations_that_could_not_be_counted(report: list[WrapReport], capsys: pytest.CaptureFixture[str]) -> None:
    parts = tuple(replace(part, flops=None) for part in report[0].parts)
    positives = (replace(report[0].positives[0], slots=None),)
    report.append(replace(report[0], parts=parts, positives=positives, uncounted="RuntimeError: reads numbers"))
    assert wrap("--aux", "atss", "-o", "mine.yaml") == 0
    shown = " ".join(capsys.readouterr().out.replace("\u2502", " ").split())
    assert "head atss 1.38 1.38 ?" in shown and "atss ? 15.0 7.5" in shown
    assert "The GFLOPs of a step could not be counted: RuntimeError: reads numbers." in shown
    assert "dearer" not in shown


def test_around_a_spec(report: list[WrapReport], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wrap", "zoo/dino_r50.yaml", "--aux", "atss", "--aux", "faster_rcnn"]) == 0
    written = Path("co_dino_r50_atss_faster_rcnn.yaml")
    assert written.read_text() == wrap_existing("dino_r50", ["atss", "faster_rcnn"], folder=Path())
    assert main(["wrap", str(written), "--aux", "atss", "-o", "more.yaml"]) == 0
    assert list(load_spec("more.yaml").heads) == ["atss", "faster_rcnn", "atss_2"]
    assert main(["wrap", "co_deformable_r50", "--aux", "atss"]) == 0
    assert Path("co_deformable_r50_atss.yaml").is_file()


def test_data_is_looked_at_and_not_written(report: list[WrapReport], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []

    def look(spec: Spec, *, has_data: bool) -> WrapReport:
        seen.append((str(spec.data.dir), has_data))
        return report[0]

    monkeypatch.setattr(codetr.wrap, "wrap_report", look)
    assert main(["wrap", "quickstart", "data=elsewhere", "--aux", "atss", "-o", "mine.yaml"]) == 0
    assert seen == [("elsewhere", True)]
    assert "elsewhere" not in Path("mine.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--aux", "atss"], "error: name what to wrap: a SPEC, or a base of the zoo with --base NAME"),
        (["quickstart", "--base", "detr", "--aux", "atss"], "error: name what to wrap: a SPEC, or a base"),
        (["quickstart", "detr_r50", "--aux", "atss"], "error: one spec at a time, not quickstart, detr_r50"),
        (["quickstart", "--aux", "atss", "--backbone", "resnet50"], "error: --backbone and --schedule go with --base"),
        (["quickstart", "train.lr=1", "--aux", "atss"], "error: train.lr=1: only data=DIR can be given here"),
        (["quickstrat", "--aux", "atss"], "error: no file and no zoo spec is called 'quickstrat'; did you mean"),
    ],
)
def test_mistakes_about_the_spec(
    report: list[WrapReport], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["wrap", *arguments]) == 2
    assert capsys.readouterr().err.startswith(message)
    assert list(Path().iterdir()) == []


def test_a_file_of_its_own_name(report: list[WrapReport]) -> None:
    assert wrap("--aux", "faster_rcnn", "--aux", "atss", "--aux", "atss") == 0
    assert [file.name for file in Path().iterdir()] == ["co_deformable_detr_faster_rcnn_atss.yaml"]


def test_an_existing_file_is_replaced_only_by_force(
    report: list[WrapReport], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text("mine: true\n")
    assert wrap("--aux", "atss", "-o", "mine.yaml") == 2
    assert capsys.readouterr().err == (
        "error: mine.yaml exists already; name another file with -o, or replace it with --force\n"
    )
    assert Path("mine.yaml").read_text() == "mine: true\n"
    assert wrap("--aux", "atss", "-o", "mine.yaml", "--force") == 0
    assert Path("mine.yaml").read_text() == wrap_spec("deformable_detr", ["atss"])


def test_what_cannot_be_built_replaces_nothing(
    report: list[WrapReport], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(spec: object, *, has_data: bool) -> WrapReport:
        raise UserError("no such thing")

    monkeypatch.setattr(codetr.wrap, "wrap_report", fail)
    Path("mine.yaml").write_text("mine: true\n")
    assert wrap("--aux", "atss", "-o", "mine.yaml", "--force") == 2
    assert capsys.readouterr().err == "error: no such thing\n"
    assert Path("mine.yaml").read_text() == "mine: true\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--aux", "ats"], "error: no head is called 'ats'; did you mean 'atss'?\n"),
        (["--aux", "atss", "--schedule", "12"], "error: no '12' in the zoo's schedules; did you mean '12e'?\n"),
        (["--aux", "atss", "-o", "no/x.yaml"], "error: no is not a folder; make it first, or name another file"),
        ([], "error: Missing option '--aux'"),
    ],
)
def test_mistakes(
    report: list[WrapReport], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wrap(*arguments) == 2
    written = capsys.readouterr()
    assert written.err.startswith(message) and written.out == ""
    assert list(Path().iterdir()) == []


def test_a_difference_is_a_defect_and_not_hidden(report: list[WrapReport]) -> None:
    report.append(replace(report[0], unchanged=False))
    with pytest.raises(RuntimeError, match="a defect of codetr"):
        wrap("--aux", "atss")


def test_end_to_end_with_a_small_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "zoo"
    shutil.copytree(zoo.root(), folder)
    (folder / "backbones" / "tiny.yaml").write_text(
        "backbone: {name: resnet, model: resnet10t, pretrained: false, options: {channels: [8, 8, 8, 8]}}\n"
        "neck: {num_levels: 3}\n"
        "base: {encoder_layers: 1, decoder_layers: 1, num_queries: 20, ffn_dim: 32}\n"
    )
    monkeypatch.setattr(zoo, "root", lambda: folder)
    file = tmp_path / "mine.yaml"
    assert wrap("--aux", "atss", "--backbone", "tiny", "-o", str(file)) == 0
    assert UNCHANGED in " ".join(capsys.readouterr().out.split())
    assert list(load_spec(file).heads) == ["atss"]
