"""`codetr wrap`: the file, the panel, what is not overwritten."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import codetr.wrap
from codetr import zoo
from codetr.cli.main import main
from codetr.errors import UserError
from codetr.spec import load_spec
from codetr.wrap import WrapReport, wrap_spec

UNCHANGED = "inference unchanged: detections with and without the heads are bit-identical"


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[WrapReport]:
    """What a build would tell, in place of building; the current folder is empty."""
    answers = [WrapReport({"base": 39_840_000, "head atss": 1_380_000}, shipped=40_070_000, unchanged=True)]
    monkeypatch.setattr(codetr.wrap, "wrap_report", lambda spec, *, num_classes: answers[-1])
    monkeypatch.chdir(tmp_path)
    return answers


def wrap(*arguments: str) -> int:
    return main(["wrap", "--base", "deformable_detr", *arguments])


def test_the_file_and_the_panel(report: list[WrapReport], capsys: pytest.CaptureFixture[str]) -> None:
    assert wrap("--aux", "atss", "--aux", "atss", "-o", "mine.yaml") == 0
    assert Path("mine.yaml").read_text() == wrap_spec("deformable_detr", ["atss", "atss"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "parameters for 80 classes, in millions" in shown
    assert "base 39.84 head atss 1.38" in shown
    assert "trained in all 41.22" in shown
    assert "shipped (the base, frozen parts included) 40.07" in shown
    assert UNCHANGED in shown
    assert shown.endswith("wrote mine.yaml train it: codetr train mine.yaml data=DIR")


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
    def fail(spec: object, *, num_classes: int) -> WrapReport:
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
    report.append(WrapReport({"base": 1}, shipped=1, unchanged=False))
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
