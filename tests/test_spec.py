"""The whole spec: loading, equality, the document behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codetr import yaml_nodes
from codetr.config import dump
from codetr.errors import ConfigError
from codetr.spec import Spec, load_spec

SETTINGS: dict[str, Any] = {
    "base": {"name": "deformable_detr", "num_queries": 7},
    "backbone": {"name": "resnet"},
    "neck": {"name": "channel_mapper"},
    "heads": {"atss": {}},
    "train": {"lr": "3e-4"},
}


def test_a_mapping_with_overrides() -> None:
    spec = load_spec(SETTINGS, ["data=somewhere", "heads={}"])
    assert spec.train.lr == 3e-4
    assert spec.data.dir == Path("somewhere")
    assert spec.heads == {}
    assert str(spec.document.explain("data.dir")) == "command line"
    assert str(spec.document.explain("train.lr")) == "given in Python"


def test_what_a_run_writes_loads_back_to_an_equal_spec(tmp_path: Path) -> None:
    spec = load_spec(SETTINGS, ["data=somewhere", "train.seed=3"])
    file = tmp_path / "spec.yaml"
    file.write_text(dump(spec))
    again = load_spec(file)
    assert again == spec
    assert again != load_spec(SETTINGS)
    assert dump(again) == dump(spec)
    assert load_spec(yaml_nodes.parse(dump(spec), "checkpoint").plain()) == spec


def test_errors_of_every_section_come_together() -> None:
    with pytest.raises(ConfigError) as error:
        load_spec(
            SETTINGS, ["base.name=deformable_dtr", "heads.atss.topc=3", "train.epochs=0", "eval.max=1", "dat.dir=x"]
        )
    assert [line.split(": ")[1] for line in error.value.problems] == [
        "base.name",
        "heads.atss.topc",
        "train.epochs",
        "eval.max",
        "dat",
    ]


def test_a_spec_made_in_python_has_no_document() -> None:
    spec = Spec.model_validate(SETTINGS)
    assert spec == load_spec(SETTINGS)
    with pytest.raises(ValueError, match="has no document"):
        _ = spec.document


def test_a_data_set_takes_the_place_of_a_rendered_one() -> None:
    assert load_spec("quickstart").data.synthetic is not None
    data = load_spec("quickstart", ["data=somewhere"]).data
    assert (data.dir, data.synthetic) == (Path("somewhere"), None)
