"""A spec with the origin of every value."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from codetr import yaml_nodes
from codetr.config import Section, validate
from codetr.document import open_document
from codetr.show import annotated


class Train(Section):
    lr: float = 1e-4
    steps: tuple[int, ...] = (8, 11)


class Whole(Section):
    train: Train = Field(default_factory=Train)
    heads: dict[str, Train] = Field(default_factory=dict)
    name: str = "no"


def test_every_value_is_followed_by_its_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("low.yaml").write_text("train:\n  lr: 2e-4\n")
    Path("x.yaml").write_text("# What it is.\n#\n# AP 1.\nextends: [low.yaml]\nheads:\n  a: {lr: 1}\n")
    document = open_document("x.yaml", ["train.steps=[3]"])
    text = annotated(validate(Whole, document), document)
    assert text == (
        "# What it is.\n"
        "#\n"
        "# AP 1.\n"
        "train:\n"
        "  lr: 0.0002        # low.yaml:2\n"
        "  steps: [3]        # command line\n"
        "heads:\n"
        "  a:\n"
        "    lr: 1.0         # x.yaml:6\n"
        "    steps: [8, 11]  # default\n"
        "name: 'no'          # default\n"
    ).replace("'no'          #", "no            #")


def test_it_is_itself_a_spec(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("name: '2e-4'\nheads: {'1': {}, 'a b': {lr: 3}}\ntrain: {steps: []}\n")
    document = open_document(file)
    whole = validate(Whole, document)
    assert Whole.model_validate(yaml_nodes.parse(annotated(whole, document), "shown").plain()) == whole
