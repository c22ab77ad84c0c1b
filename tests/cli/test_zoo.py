"""`codetr zoo`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codetr import yaml_nodes, zoo
from codetr.cli.main import main

SPEC = """\
# A detector.
base: {name: deformable_detr}
backbone: {name: resnet}
neck: {name: channel_mapper}
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(SPEC)
    return "mine.yaml"


def test_list_names_every_recipe_with_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == zoo.recipes()
    assert main(["zoo", "list", "--all"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(zoo.names())


def test_show_prints_values_with_their_origins_and_no_colours(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "show", spec, "train.seed=5", "data=somewhere"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# A detector.\n")
    assert "\x1b" not in text
    origins = {line.partition("#")[0].strip(): line.partition("#")[2].strip() for line in text.splitlines()}
    assert origins["name: deformable_detr"] == "mine.yaml:2"
    assert origins["seed: 5"] == "command line"
    assert origins["dir: somewhere"] == "command line"
    assert origins["lr: 0.0002"] == "default"
    assert yaml_nodes.parse(text, "shown").plain()["train"]["seed"] == 5


def test_show_lists_what_is_wrong(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "show", spec, "train.sed=5", "train.lr=0"]) == 2
    assert capsys.readouterr().err == (
        "error: 2 errors in the spec 'mine':\n"
        "  command line: train.lr: found 0, must be greater than 0\n"
        "  command line: train.sed: unknown key; did you mean 'seed'?\n"
    )


def test_show_of_an_unknown_spec(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "show", "zzz"]) == 2
    assert capsys.readouterr().err.startswith("error: no file and no zoo spec is called 'zzz'; ")


def test_schema_is_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"base", "heads", "train", "extends"} <= set(schema["properties"])
    file = tmp_path / "schema.json"
    assert main(["zoo", "schema", "-o", str(file)]) == 0
    assert json.loads(file.read_text()) == schema
