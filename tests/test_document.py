"""Documents: how fragments, files and the command line combine, and where each value came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codetr import yaml_nodes
from codetr.document import DEFAULT, GIVEN, merge, open_document
from codetr.errors import ConfigError, UserError


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three specs in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "low.yaml").write_text("train:\n  epochs: 12\n  lr: 1e-4\nheads:\n  atss: {topk: 9}\n")
    (tmp_path / "high.yaml").write_text("train:\n  epochs: 36\n  steps: [1, 2]\n")
    text = "# First line.\n# Second line.\n\n# Not this.\nextends: [low.yaml, high.yaml]\ntrain:\n  steps: [3]\n"
    (tmp_path / "own.yaml").write_text(text)
    return tmp_path


def test_fragments_merge_from_left_to_right_then_the_file(files: Path) -> None:
    document = open_document("own.yaml")
    assert document.plain() == {"train": {"epochs": 36, "lr": 1e-4, "steps": [3]}, "heads": {"atss": {"topk": 9}}}
    assert document.name == "own"
    assert document.docstring == "First line.\nSecond line."


def test_every_value_tells_which_file_and_line_set_it(files: Path) -> None:
    document = open_document("own.yaml", ["train.lr=1e-3"])
    assert str(document.explain("train.epochs")) == "high.yaml:2"
    assert str(document.explain("train.lr")) == "command line"
    assert str(document.explain("train.steps")) == "own.yaml:7"
    assert str(document.explain("train.steps.0")) == "own.yaml:7"
    assert str(document.explain("heads.atss.topk")) == "low.yaml:5"
    assert document.explain("train.seed") is DEFAULT
    assert document.explain("train.lr.deeper") is DEFAULT


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        (["train.epochs=1"], {"train": {"epochs": 1, "lr": 1e-4}}),
        (["train.lr=2e-3", "train.lr=3e-3"], {"train": {"epochs": 12, "lr": 3e-3}}),
        (["train.name=a=b"], {"train": {"epochs": 12, "lr": 1e-4, "name": "a=b"}}),
        (["train={}"], {"train": {}}),
        (["heads={}"], {"heads": {}}),
        (["heads={}", "heads.faster_rcnn={}"], {"heads": {"faster_rcnn": {}}}),
        (["heads.faster_rcnn={}"], {"heads": {"atss": {"topk": 9}, "faster_rcnn": {}}}),
        (["heads.atss={}"], {"heads": {"atss": {}}}),
        (["heads={fcos: {}}"], {"heads": {"fcos": {}}}),
        (["heads={fcos: {}}", "heads.atss={}"], {"heads": {"fcos": {}, "atss": {}}}),
        (["data=DIR"], {"data": {"dir": "DIR", "synthetic": None}}),
        (["data=2017"], {"data": {"dir": "2017", "synthetic": None}}),
        (["data=a: b"], {"data": {"dir": "a: b", "synthetic": None}}),
        (["data={workers: 2}", "data=DIR"], {"data": {"workers": 2, "dir": "DIR", "synthetic": None}}),
        (["train.steps=[1, no]"], {"train": {"epochs": 12, "lr": 1e-4, "steps": [1, "no"]}}),
        (["train.lr="], {"train": {"epochs": 12, "lr": None}}),
    ],
)
def test_overrides(files: Path, overrides: list[str], changed: dict[str, Any]) -> None:
    before = {"train": {"epochs": 12, "lr": 1e-4}, "heads": {"atss": {"topk": 9}}}
    assert open_document("low.yaml", overrides).plain() == {**before, **changed}


@pytest.mark.parametrize("text", ["train.epochs", "=3", "train..lr=3", "two words=3", ".lr=1"])
def test_an_override_that_is_none(files: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="an override is written key=value"):
        open_document("low.yaml", [text])


def test_an_override_that_is_not_yaml(files: Path) -> None:
    with pytest.raises(ConfigError, match=r"^command line: train\.steps:1:3: not valid YAML"):
        open_document("low.yaml", ["train.steps=[1"])


def test_an_explicit_empty_mapping_in_a_file_empties_what_is_below(files: Path) -> None:
    (files / "bare.yaml").write_text("extends: [own.yaml]\nheads: {}\n")
    assert open_document("bare.yaml").plain()["heads"] == {}
    (files / "again.yaml").write_text("extends: [own.yaml, bare.yaml]\nheads: {fcos: {}}\n")
    assert open_document("again.yaml").plain()["heads"] == {"fcos": {}}


BASE = {"base": {"name": "one", "depth": 3}, "heads": {"atss": {"topk": 9}, "other": {"name": "atss", "topk": 5}}}


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        (["base.name=two"], {"base": {"name": "two"}}),
        (["base.name=one"], {"base": {"name": "one", "depth": 3}}),
        (["base.width=4"], {"base": {"name": "one", "depth": 3, "width": 4}}),
        (["base.width=4", "base.name=two"], {"base": {"width": 4, "name": "two"}}),
        (["heads.atss.name=fcos"], {"heads": {"atss": {"name": "fcos"}, "other": {"name": "atss", "topk": 5}}}),
        (["heads.other.scale=4"], {"heads": {"atss": {"topk": 9}, "other": {"scale": 4}}}),
        (
            ["heads.other={name: atss, scale: 4}"],
            {"heads": {"atss": {"topk": 9}, "other": {"name": "atss", "scale": 4}}},
        ),
    ],
)
def test_another_component_does_not_inherit_settings(overrides: list[str], changed: dict[str, Any]) -> None:
    assert open_document(BASE, overrides).plain() == {**BASE, **changed}


def test_a_name_elsewhere_is_a_setting_like_any_other() -> None:
    merged = open_document({"train": {"name": "a", "lr": 1}}, ["train.name=b"])
    assert merged.plain() == {"train": {"name": "b", "lr": 1}}


def test_a_mapping_made_in_python(files: Path) -> None:
    document = open_document({"extends": ["low.yaml"], "data": {"dir": Path("a/b"), "sizes": (1, 2)}})
    assert document.plain()["data"] == {"dir": "a/b", "sizes": [1, 2]}
    assert document.plain()["train"] == {"epochs": 12, "lr": 1e-4}
    assert document.explain("data.dir") == GIVEN


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: [hihg.yaml]", "x.yaml:1: extends: no file hihg.yaml; did you mean 'high.yaml'?"),
        (
            "a: 1\nextends:\n  - low.yaml\n  - bases/nothing_like_it",
            "x.yaml:4: extends: no fragment 'bases/nothing_like_it'",
        ),
        ("extends: low.yaml", "x.yaml:1: extends: wants a list of names, such as [data/coco, schedules/12e]"),
        ("extends: [1]", "x.yaml:1: extends: wants a list of names"),
        ("extends: [x.yaml]", "x.yaml: extends itself: x.yaml -> x.yaml"),
        ("extends: [loop.yaml]", "x.yaml: extends itself: x.yaml -> loop.yaml -> x.yaml"),
        ("- 1", "x.yaml:1: a spec is a mapping of keys to settings"),
        ("\ufeff\x00", "x.yaml: not valid YAML"),
    ],
)
def test_what_cannot_be_opened(files: Path, text: str, message: str) -> None:
    (files / "x.yaml").write_text(text, encoding="utf-8")
    (files / "loop.yaml").write_text("extends: [x.yaml]")
    with pytest.raises(ConfigError) as error:
        open_document("x.yaml")
    assert str(error.value).startswith(message)


def test_a_fragment_is_found_from_the_folder_of_its_file(files: Path) -> None:
    (files / "deep").mkdir()
    (files / "deep" / "a.yaml").write_text("extends: [b.yaml, ../low.yaml]")
    (files / "deep" / "b.yaml").write_text("seed: 3")
    assert open_document("deep/a.yaml").plain()["seed"] == 3
    assert str(open_document("deep/a.yaml").explain("seed")) == "deep/b.yaml:1"


def test_a_file_of_another_encoding(files: Path) -> None:
    (files / "x.yaml").write_bytes("a: \u00e4".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"^x\.yaml: cannot be read"):
        open_document("x.yaml")


def test_an_empty_file_is_an_empty_spec(files: Path) -> None:
    (files / "x.yaml").write_text("# Nothing.\n")
    assert open_document("x.yaml").plain() == {}


def test_a_folder_and_a_missing_spec(files: Path) -> None:
    with pytest.raises(ConfigError, match="a folder, not a spec"):
        open_document(files)
    with pytest.raises(UserError, match=r"no file and no zoo spec is called 'zoo/nothing_like_it\.yaml'"):
        open_document("zoo/nothing_like_it.yaml")


TREES = st.recursive(
    st.integers(0, 3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
MAPPINGS = st.dictionaries(st.sampled_from("abc"), TREES, max_size=3)


@given(low=MAPPINGS, middle=MAPPINGS, high=MAPPINGS)
def test_merging_is_associative(low: dict[str, Any], middle: dict[str, Any], high: dict[str, Any]) -> None:
    """So it makes no difference whether a fragment extends another one or stands beside it."""
    a, b, c = (yaml_nodes.read(value, GIVEN) for value in (low, middle, high))
    assert merge(merge(a, b), c).plain() == merge(a, merge(b, c)).plain()
