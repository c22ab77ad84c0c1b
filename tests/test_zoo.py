"""The shipped specs: they are found, they resolve, they validate."""

from __future__ import annotations

from pathlib import Path

import pytest

from codetr import zoo
from codetr.config import dump
from codetr.document import open_document
from codetr.errors import UserError
from codetr.registry import find
from codetr.spec import load_spec


def test_the_zoo_of_a_checkout_lies_beside_the_package(root: Path) -> None:
    assert zoo.root() == root / "zoo"


def test_a_zoo_inside_the_package_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "codetr"
    (package / "zoo").mkdir(parents=True)
    (tmp_path / "zoo").mkdir()
    monkeypatch.setattr(zoo, "__file__", str(package / "zoo.py"))
    assert zoo.root() == package / "zoo"
    (package / "zoo").rmdir()
    assert zoo.root() == tmp_path / "zoo"
    (tmp_path / "zoo").rmdir()
    with pytest.raises(UserError, match="no zoo"):
        zoo.root()


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo of four files."""
    folder = tmp_path / "zoo"
    for name in ("quickstart", "bases/one", "paper/table2_one", "bench"):
        file = folder / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# What {name} is.\n# AP 1.\n\n# Not this.\nseed: 1\n")
    monkeypatch.setattr(zoo, "__file__", str(tmp_path / "codetr" / "zoo.py"))
    return folder


def test_recipes_are_the_files_at_the_top_and_those_of_the_paper(small: Path) -> None:
    assert zoo.names() == ["bases/one", "bench", "paper/table2_one", "quickstart"]
    assert zoo.recipes() == ["bench", "quickstart", "paper/table2_one"]
    assert zoo.docstring(small / "bench.yaml") == "What bench is.\nAP 1."


def test_numbers_in_names_count(small: Path) -> None:
    (small / "paper" / "table10_one.yaml").touch()
    (small / "paper" / "table9_36e.yaml").touch()
    assert zoo.recipes()[2:] == ["paper/table2_one", "paper/table9_36e", "paper/table10_one"]


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("# On its own.\n", zoo.Recipe("bench", "On its own")),
        ("", zoo.Recipe("bench", "")),
        ("# A, 12 epochs: 47.1 AP on COCO val (Table 3).\n", zoo.Recipe("bench", "A, 12 epochs", 47.1)),
        (
            "# Table 2, DAB-DETR-C5, K = 1, 36 epochs: 43.1 AP on COCO val.\n",
            zoo.Recipe(
                "bench", "Table 2, DAB-DETR-C5, K = 1, 36 epochs", 43.1, zoo.Row("Table 2", "DAB-DETR-C5", 1, 36, "")
            ),
        ),
        (
            "# Table 13, A, K = 6, 12 epochs, six of them: 49.0 AP on COCO val.\n# Why.\n"
            "# Measured: 48.9 AP on COCO val, one seed (benchmarks/results/a.md).\n",
            zoo.Recipe(
                "bench",
                "Table 13, A, K = 6, 12 epochs, six of them",
                49.0,
                zoo.Row("Table 13", "A", 6, 12, "six of them"),
                zoo.Measured(48.9, "COCO val"),
            ),
        ),
    ],
)
def test_the_comment_of_a_spec_is_read(small: Path, comment: str, expected: zoo.Recipe) -> None:
    (small / "bench.yaml").write_text(f"{comment}seed: 1\n")
    assert zoo.recipe("bench") == expected


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml", "zoo/quickstart.yaml", "zoo/quickstart"])
def test_a_spec_is_found_by_name(small: Path, name: str) -> None:
    assert zoo.find(name) == small / "quickstart.yaml"


def test_a_wrong_name_gets_the_nearest(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(UserError, match=r"called 'zoo/quikstart.yaml'; did you mean 'quickstart'\?"):
        zoo.find("zoo/quikstart.yaml")
    (elsewhere / "quickest.yaml").touch()
    with pytest.raises(UserError, match=r"did you mean 'quickest\.yaml'\?"):
        zoo.find("quikest.yaml")
    with pytest.raises(UserError, match=r"did you mean 'bases/one'\?"):
        zoo.find("base/one")
    with pytest.raises(UserError, match=r"did you mean 'paper/table2_one'\?"):
        zoo.find("table2_one")


@pytest.mark.parametrize("name", zoo.recipes())
def test_every_recipe_resolves_validates_and_says_what_it_is(name: str, tmp_path: Path) -> None:
    spec = load_spec(name)
    assert spec.document.docstring.partition("\n")[0] != ""
    file = tmp_path / "again.yaml"
    file.write_text(dump(spec))
    assert load_spec(file) == spec


@pytest.mark.parametrize("name", sorted(set(zoo.names()) - set(zoo.recipes())))
def test_every_fragment_opens_and_sets_known_sections(name: str) -> None:
    from codetr.spec import Spec

    settings = open_document(name).plain()
    assert settings != {}
    assert set(settings) <= set(Spec.model_fields)


@pytest.mark.parametrize("name", ["atss", "faster_rcnn", "retinanet", "fcos", "paa", "gfl"])
def test_the_fragment_of_a_head_states_its_defaults(name: str) -> None:
    settings = open_document(f"heads/{name}").plain()["heads"][name]
    component = find("heads", name)
    assert component.Config.model_validate(settings) == component.Config()
