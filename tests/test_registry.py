"""Components by name, from inside and from outside, and as parts of a spec."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import Field, ValidationError

from codetr.config import Section
from codetr.errors import UserError
from codetr.registry import (
    CONTRACTS,
    BackboneSpec,
    BaseSpec,
    ComponentSpec,
    HeadSpec,
    Kind,
    NeckSpec,
    UnknownComponent,
    components,
    find,
    names,
)


class Model(Section):
    base: BaseSpec
    backbone: BackboneSpec | None = None
    neck: NeckSpec | None = None
    heads: dict[str, HeadSpec] = Field(default_factory=dict)


PLUGIN = """\
from codetr.config import Section
from codetr.models.heads.contract import Head

class MyHead(Head):
    class Config(Section):
        topk: int = 9
    def forward(self, pyramid, targets): ...
    def predict(self, pyramid): ...

class Bare(Head):
    def forward(self, pyramid, targets): ...
    def predict(self, pyramid): ...

class Stranger:
    pass
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module from outside that defines heads."""
    name = "codetr_plugin_for_tests"
    (tmp_path / f"{name}.py").write_text(PLUGIN)
    (tmp_path / f"{name}_broken.py").write_text("raise RuntimeError('half written')\n")
    (tmp_path / f"{name}_lacking.py").write_text("import codetr_not_installed\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_file_of_a_kind_is_a_component(kind: Kind) -> None:
    assert names(kind) != []
    assert "contract" not in names(kind)
    for name in names(kind):
        component = find(kind, name)
        assert component.__module__ == f"codetr.models.{kind}.{name}"
        assert CONTRACTS[kind] in [parent.__name__ for parent in component.__mro__]
        assert issubclass(component.Config, Section)
        assert "name" not in component.Config.model_fields


def test_a_wrong_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownComponent, match=r"^no head is called 'atts'; did you mean 'atss'\?$"):
        find("heads", "atts")
    with pytest.raises(UnknownComponent, match=r"^no base is called 'zzz'; valid names: .*deformable_detr"):
        find("bases", "zzz")
    with pytest.raises(UnknownComponent):
        find("bases", "contract")


def test_a_component_from_outside(plugin: str) -> None:
    found = find("heads", f"{plugin}:MyHead")
    assert found is sys.modules[plugin].MyHead
    model = Model.model_validate(
        {"base": {"name": "deformable_detr"}, "heads": {"mine": {"name": f"{plugin}:MyHead", "topk": 3}}}
    )
    assert model.heads["mine"].settings.model_dump() == {"topk": 3}


@pytest.mark.parametrize(
    ("suffix", "kind", "message"),
    [
        (":MyHaed", "heads", "has no 'MyHaed'; did you mean 'MyHead'?"),
        (":MyHead", "bases", "is not a subclass of codetr.models.bases.contract.Base"),
        (":Stranger", "heads", "is not a subclass of codetr.models.heads.contract.Head"),
        (":Bare", "heads", "lacks its settings: a nested `class Config(Section)`"),
        ("_broken:MyHead", "heads", "cannot be imported: RuntimeError: half written"),
        ("_lacking:MyHead", "heads", "cannot be imported: No module named 'codetr_not_installed'"),
        (
            "_absent:MyHead",
            "heads",
            "no module 'codetr_plugin_for_tests_absent'; install it, or put its folder on PYTHONPATH",
        ),
    ],
)
def test_a_component_from_outside_that_cannot_be_used(plugin: str, suffix: str, kind: Kind, message: str) -> None:
    with pytest.raises(UserError) as error:
        find(kind, plugin + suffix)
    assert message in str(error.value)


def package(folder: Path, name: str, points: str, summary: str = "") -> None:
    """What an installed package leaves beside its modules."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    about = f"Summary: {summary}\n" if summary else ""
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{about}")
    (info / "entry_points.txt").write_text(points)


def test_a_component_of_an_installed_package(plugin: str, tmp_path: Path) -> None:
    package(tmp_path, "mine", f"[codetr.heads]\nmy_head = {plugin}:MyHead\n", summary="A head of mine")
    assert find("heads", "my_head") is sys.modules[plugin].MyHead
    assert "my_head" in names("heads") and "my_head" not in names("bases")
    model = Model.model_validate({"base": {"name": "deformable_detr"}, "heads": {"my_head": {"topk": 3}}})
    assert model.heads["my_head"].settings.model_dump() == {"topk": 3}
    with pytest.raises(UnknownComponent, match=r"^no head is called 'my_haed'; did you mean 'my_head'\?$"):
        find("heads", "my_haed")
    with pytest.raises(UnknownComponent):
        find("bases", "my_head")
    with pytest.raises(UnknownComponent):
        find("necks", "my_head")


def test_a_built_in_name_wins(plugin: str, tmp_path: Path) -> None:
    package(tmp_path, "mine", f"[codetr.heads]\natss = {plugin}:MyHead\n", summary="A head of mine")
    assert find("heads", "atss").__module__ == "codetr.models.heads.atss"
    own, other = [entry for entry in components() if (entry.kind, entry.name) == ("heads", "atss")]
    assert own.origin == "built in"
    assert (other.origin, other.description) == ("mine 1.0", f"hidden by the built-in one: name it '{plugin}:MyHead'")


def test_two_packages_with_one_name(plugin: str, tmp_path: Path) -> None:
    package(tmp_path, "mine", f"[codetr.heads]\nmy_head = {plugin}:MyHead\n")
    package(tmp_path, "yours", f"[codetr.heads]\nmy_head = {plugin}:Bare\n")
    with pytest.raises(UserError) as error:
        find("heads", "my_head")
    message = str(error.value)
    assert message.startswith("2 packages have a head called 'my_head': write ")
    assert f"'{plugin}:MyHead' (mine 1.0)" in message and f"'{plugin}:Bare' (yours 1.0)" in message
    assert message.endswith(", or uninstall one")
    assert names("heads").count("my_head") == 1


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("{plugin}:MyHaed", "has no 'MyHaed'; did you mean 'MyHead'?"),
        ("{plugin}:Stranger", "'my_head' is not a subclass of codetr.models.heads.contract.Head"),
        ("{plugin}_broken:MyHead", "the head 'my_head' cannot be imported: RuntimeError: half written"),
    ],
)
def test_an_installed_component_that_cannot_be_used(plugin: str, point: str, message: str, tmp_path: Path) -> None:
    package(tmp_path, "mine", f"[codetr.heads]\nmy_head = {point.format(plugin=plugin)}\n")
    with pytest.raises(UserError) as error:
        find("heads", "my_head")
    assert message in str(error.value)
    assert "my_head" in [entry.name for entry in components()]


def test_the_list_of_components_imports_none(plugin: str, tmp_path: Path) -> None:
    package(tmp_path, "mine", f"[codetr.bases]\nmy_base = {plugin}_broken:Base\n")
    found = {(entry.kind, entry.name): entry for entry in components()}
    atss = found["heads", "atss"]
    assert (atss.origin, atss.place) == ("built in", "codetr.models.heads.atss")
    assert atss.description == "ATSS: one square anchor a cell, assigned by the statistics of its overlaps"
    assert found["bases", "my_base"].description == ""
    assert all(entry.description for entry in found.values() if entry.origin == "built in")
    assert {kind for kind, _ in found} == set(get_args(Kind))


def test_the_cause_of_a_failed_import_is_kept(plugin: str) -> None:
    with pytest.raises(UserError) as error:
        find("heads", f"{plugin}_broken:MyHead")
    assert isinstance(error.value.__cause__, RuntimeError)


def test_a_spec_names_a_component_and_gives_its_settings() -> None:
    model = Model.model_validate({"base": {"name": "deformable_detr", "num_queries": 7}})
    assert model.base.name == "deformable_detr"
    assert model.base.settings.num_queries == 7  # type: ignore[attr-defined]
    assert type(model.base.settings) is find("bases", "deformable_detr").Config


def test_the_name_of_a_head_defaults_to_its_key() -> None:
    heads = {"atss": {}, "atss_2": {"name": "atss"}}
    model = Model.model_validate({"base": {"name": "deformable_detr"}, "heads": heads})
    assert [head.name for head in model.heads.values()] == ["atss", "atss"]
    assert heads == {"atss": {}, "atss_2": {"name": "atss"}}


def test_a_dump_validates_back_to_an_equal_model() -> None:
    settings = {"base": {"name": "deformable_detr", "num_queries": 7}, "heads": {"atss_2": {"name": "atss"}}}
    model = Model.model_validate(settings)
    dumped = model.model_dump(mode="json")
    assert dumped["base"]["name"] == "deformable_detr"
    assert dumped["base"]["num_queries"] == 7
    assert dumped["heads"]["atss_2"]["name"] == "atss"
    assert Model.model_validate(dumped) == model
    assert Model.model_validate({"base": model.base, "heads": model.heads}) == model


@pytest.mark.parametrize(
    ("settings", "location", "message"),
    [
        ({"base": {}}, ("base", "name"), "wants the name of a base: "),
        ({"base": {"name": 3}}, ("base", "name"), "wants the name of a base: "),
        ({"base": 3}, ("base",), "must be a mapping of its name and settings"),
        ({"base": {"name": "deformable_dtr"}}, ("base", "name"), "did you mean 'deformable_detr'?"),
        ({"base": {"name": "deformable_detr", "num_querys": 3}}, ("base", "num_querys"), "did you mean 'num_queries'?"),
        ({"base": {"name": "deformable_detr", "num_queries": True}}, ("base", "num_queries"), "must be a number"),
        ({"heads": {"atts": {}}}, ("heads", "atts", "name"), "did you mean 'atss'?"),
        ({"heads": {"atss": {"topc": 3}}}, ("heads", "atss", "topc"), "did you mean 'topk'?"),
        ({"heads": {"atss": None}}, ("heads", "atss"), "must be a mapping of its name and settings"),
        ({"heads": []}, ("heads",), "must be a mapping"),
    ],
)
def test_errors_keep_their_whole_path(settings: dict[str, Any], location: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        Model.model_validate({"base": {"name": "deformable_detr"}, **settings})
    ((found, text),) = [(entry["loc"], entry["msg"]) for entry in error.value.errors()]
    assert found == location
    assert message in text


def test_a_component_spec_is_immutable() -> None:
    component = ComponentSpec("atss", Section())
    with pytest.raises(AttributeError):
        component.name = "fcos"  # type: ignore[misc]
