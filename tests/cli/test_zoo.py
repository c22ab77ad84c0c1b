"""`codetr zoo`."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from codetr import yaml_nodes, zoo
from codetr.cli.main import main
from codetr.registry import Kind, names
from codetr.zoo_tables import recipe_tables

KINDS: dict[str, Kind] = {"base": "bases", "head": "heads", "backbone": "backbones", "neck": "necks"}
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


def test_list_gives_the_published_figure_behind_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "list"]) == 0
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in capsys.readouterr().out.splitlines()}
    assert lines["paper/table2_dab_c5_k1"] == ["43.1", "Table 2, DAB-DETR-C5, K = 1, 36 epochs"]
    assert lines["quickstart"][0] == "-"


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "list", "--json"]) == 0
    found = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert list(found) == zoo.recipes()
    assert found["co_deformable_r50"]["published"] == 49.5
    assert found["paper/table9_36e_head"]["row"] == {
        "table": "Table 9", "method": "Deformable-DETR", "k": 1, "epochs": 36, "detail": "head alone"
    }  # fmt: skip
    assert found["quickstart"]["measured"] == {"ap": 26.3, "dataset": "its own scenes"}


def test_components_are_listed_with_where_they_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "list", "--components"]) == 0
    rows = [re.split(r"\s{2,}", line, maxsplit=3) for line in capsys.readouterr().out.splitlines()]
    known = [(kind, name) for kind in ("base", "head", "backbone", "neck") for name in names(KINDS[kind])]
    assert [(kind, name) for kind, name, _, _ in rows] == known
    assert ["head", "fcos", "built in"] in [row[:3] for row in rows]
    assert all(description for *_, description in rows)
    assert main(["zoo", "list", "--components", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed] == [name for _, name in known]
    assert main(["zoo", "list", "--components", "--all"]) == 2
    assert "--all: not with --components" in capsys.readouterr().err


@pytest.mark.parametrize("width", [80, 100, 150])
def test_the_tables_of_a_terminal_fit_it(width: int) -> None:
    recipes = [zoo.recipe(name) for name in zoo.names()]
    console = Console(width=width, file=StringIO(), force_terminal=False)
    with console.capture() as captured:
        for table in recipe_tables(recipes, width=width):
            console.print(table)
    text = captured.get()
    assert "\u2026" not in text
    words = set(text.split())
    assert words >= {recipe.name for recipe in recipes}
    assert words >= {f"{recipe.published}" for recipe in recipes if recipe.published is not None}
    headers = [line.split() for line in text.splitlines() if line.startswith(" spec")]
    assert [header[-2:] for header in headers] == [["AP", "ours"]] * 11
    titles = [line.strip() for line in text.splitlines() if line and not line.startswith(" ")]
    assert [title.partition(":")[0] for title in titles] == [
        "Recipes",
        "Fragments",
        *(f"Table {number} of the paper" for number in (2, 3, 4, 7, 8, 9, 10, 12, 13)),
    ]


def test_show_of_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "show", "quickstart", "--model", "--classes", "4"]) == 0
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()]
    assert max(map(len, text.splitlines())) <= 100 and "\u2026" not in text
    assert ["heads.atss", "ATSS", "174,061", "174,061", "174,061"] in lines
    assert ["at", "inference", "1,490,588", "21.7"] in lines
    assert "4 classes." in text


@pytest.mark.parametrize("spec", ["co_dino_5scale_r50", "dab_detr_r50"])
def test_large_models_fit_a_hundred_columns(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "show", spec, "--model"]) == 0
    assert "\u2026" not in capsys.readouterr().out


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
    message = "error: no file and no zoo spec is called 'zzz'; `codetr zoo list` prints the names\n"
    assert capsys.readouterr().err == message


def test_schema_is_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"base", "heads", "train", "extends"} <= set(schema["properties"])
    file = tmp_path / "schema.json"
    assert main(["zoo", "schema", "-o", str(file)]) == 0
    assert json.loads(file.read_text()) == schema
