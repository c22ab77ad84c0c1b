"""Components by name: a name is a module, `codetr/models/<kind>/<name>.py`, and there is no table.

A component from outside is named `package.module:Class`; heads and bases also by the names that installed packages give
them in the entry point groups `codetr.heads` and `codetr.bases`. A built-in name is never another's.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from codetr.config import NAMED_BY_KEY, Section
from codetr.errors import UserError, suggestion

Kind = Literal["bases", "heads", "backbones", "necks"]

CONTRACTS: dict[Kind, str] = {"bases": "Base", "heads": "Head", "backbones": "Backbone", "necks": "Neck"}
SINGULAR: dict[Kind, str] = {"bases": "base", "heads": "head", "backbones": "backbone", "necks": "neck"}

GROUPS: dict[Kind, str] = {"bases": "codetr.bases", "heads": "codetr.heads"}
"""Entry point groups in which a package names its components: `point = "my_package.my_module:PointHead"`."""

JSON_MARK = "x-codetr-component"


class UnknownComponent(UserError):
    """No component of this kind has the name."""


@dataclass(frozen=True)
class Component:
    """origin: `built in`, or the package that brings it. place: the module, or `module:Class`."""

    kind: Kind
    name: str
    origin: str
    description: str
    place: str


def names(kind: Kind) -> list[str]:
    """The names of a kind, built-in ones and those of installed packages, found without importing any of them."""
    return sorted({*_built_in(kind), *_installed(kind)})


def components() -> list[Component]:
    """Every component that a spec can name, by kind and name, built-in ones first; nothing is imported."""
    found: list[Component] = []
    for kind in CONTRACTS:
        own = _built_in(kind)
        found += [Component(kind, name, "built in", _headline(kind, name), _module(kind, name)) for name in own]
        for name, entries in sorted(_installed(kind).items()):
            for entry in entries:
                summary = str(entry.dist.metadata.json.get("summary", "")) if entry.dist else ""
                clash = "hidden by the built-in one" if name in own else "its name is another's too"
                note = f"{clash}: name it {entry.value!r}"
                is_hidden = name in own or len(entries) > 1
                found.append(Component(kind, name, _package(entry), note if is_hidden else summary, entry.value))
    return found


def _built_in(kind: Kind) -> list[str]:
    """The files of the folder of a kind."""
    folder = Path(__file__).resolve().parent / "models" / kind
    found = (module.name for module in pkgutil.iter_modules([str(folder)]))
    return sorted(name for name in found if name != "contract" and not name.startswith("_"))


def _installed(kind: Kind) -> dict[str, list[EntryPoint]]:
    """What installed packages declare, by name; more than one of a name is a clash."""
    found: dict[str, list[EntryPoint]] = defaultdict(list)
    for entry in entry_points(group=GROUPS[kind]) if kind in GROUPS else ():
        if all(entry.value != other.value for other in found[entry.name]):  # a package may be on the path twice
            found[entry.name].append(entry)
    return dict(found)


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.module.partition(".")[0]


def _module(kind: Kind, name: str) -> str:
    return f"codetr.models.{kind}.{name}"


def _headline(kind: Kind, name: str) -> str:
    """The first line of a built-in component's docstring."""
    file = Path(__file__).resolve().parent / "models" / kind / f"{name}.py"
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].removesuffix(".")


def find(kind: Kind, name: str) -> type[Any]:
    """The class of a component: the one in its module that fulfils the contract of its kind.

    Raises: UnknownComponent with the nearest name; UserError if its module fails to import (which is the cause), if the
    class does not fulfil the contract, or if two packages give their components this name.
    """
    if ":" not in name and name in _built_in(kind):
        contract, module = _contract(kind), _import(kind, name, _module(kind, name))
        return _checked(_only(module, contract), contract, name)
    place = name if ":" in name else _entry(kind, name).value
    module_name, _, class_name = place.partition(":")
    module = _import(kind, name, module_name)
    component = getattr(module, class_name, None)
    if component is None:
        raise UnknownComponent(
            f"the module {module_name} has no {class_name!r}; {suggestion(class_name, _own(module))}"
        )
    return _checked(component, _contract(kind), name)


def _contract(kind: Kind) -> type[Any]:
    contract: type[Any] = getattr(importlib.import_module(f"codetr.models.{kind}.contract"), CONTRACTS[kind])
    return contract


def _entry(kind: Kind, name: str) -> EntryPoint:
    """The one component of this name that a package brings."""
    entries = _installed(kind).get(name, [])
    if not entries:
        raise UnknownComponent(f"no {SINGULAR[kind]} is called {name!r}; {suggestion(name, names(kind), kind='names')}")
    if len(entries) > 1:
        options = " or ".join(f"{entry.value!r} ({_package(entry)})" for entry in entries)
        raise UserError(
            f"{len(entries)} packages have a {SINGULAR[kind]} called {name!r}: write {options}, or uninstall one"
        )
    return entries[0]


def _import(kind: Kind, name: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UserError(f"the {SINGULAR[kind]} {name!r} cannot be imported: {error}") from error
        hint = "install it, or put its folder on PYTHONPATH"
        raise UserError(f"the {SINGULAR[kind]} {name!r}: no module {error.name!r}; {hint}") from error
    except Exception as error:
        raise UserError(f"the {SINGULAR[kind]} {name!r} cannot be imported: {type(error).__name__}: {error}") from error


def _own(module: ModuleType) -> list[str]:
    """Names of the classes that a module defines itself."""
    return [
        name for name, value in vars(module).items() if isinstance(value, type) and value.__module__ == module.__name__
    ]


def _only(module: ModuleType, contract: type[Any]) -> type[Any]:
    classes: list[type[Any]] = [getattr(module, name) for name in _own(module)]
    found = [entry for entry in classes if issubclass(entry, contract)]
    if len(found) != 1:
        listed = ", ".join(entry.__name__ for entry in found) or "none"
        raise UserError(f"{module.__file__} must define one subclass of {contract.__name__}, it defines {listed}")
    return found[0]


def _checked(component: Any, contract: type[Any], name: str) -> type[Any]:
    if not isinstance(component, type) or not issubclass(component, contract):
        raise UserError(f"{name!r} is not a subclass of {contract.__module__}.{contract.__name__}")
    settings = getattr(component, "Config", None)
    if not isinstance(settings, type) or not issubclass(settings, Section):
        raise UserError(f"{name!r} lacks its settings: a nested `class Config(Section)`")
    checked: type[Any] = component
    return checked


@dataclass(frozen=True)
class ComponentSpec:
    """A component's name and its settings, an instance of the component's own `Config`."""

    name: str
    settings: Section

    def plain(self) -> dict[str, Any]:
        """As a spec writes it: the name and the settings in one mapping."""
        return {"name": self.name, **self.settings.model_dump(mode="json")}


@dataclass(frozen=True)
class _Validated:
    """How pydantic reads and writes a `ComponentSpec` of a kind."""

    kind: Kind

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(ComponentSpec.plain)
        metadata = {NAMED_BY_KEY: self.kind == "heads"}
        return core_schema.no_info_plain_validator_function(self.read, serialization=written, metadata=metadata)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {JSON_MARK: self.kind}

    def read(self, value: object) -> ComponentSpec:
        """{name: ..., **settings} -> the settings validated by the component's `Config`."""
        if isinstance(value, ComponentSpec):
            return value
        if not isinstance(value, Mapping):
            raise _error("component_type", "must be a mapping of its name and settings", (), value)
        name = value.get("name")
        if not isinstance(name, str):
            options = ", ".join(names(self.kind))
            raise _error("component", f"wants the name of a {SINGULAR[self.kind]}: {options}", ("name",), name)
        try:
            component = find(self.kind, name)
        except UnknownComponent as error:
            raise _error("component", str(error), ("name",), name) from error
        settings = {key: item for key, item in value.items() if key != "name"}
        return ComponentSpec(name, component.Config.model_validate(settings))


def _error(kind: str, message: str, location: tuple[str, ...], value: object) -> ValidationError:
    """A validation error at a place inside the component's mapping."""
    custom = PydanticCustomError("component", "{message}", {"message": message})
    return ValidationError.from_exception_data(kind, [InitErrorDetails(type=custom, loc=location, input=value)])


BaseSpec = Annotated[ComponentSpec, _Validated("bases")]
BackboneSpec = Annotated[ComponentSpec, _Validated("backbones")]
NeckSpec = Annotated[ComponentSpec, _Validated("necks")]
HeadSpec = Annotated[ComponentSpec, _Validated("heads")]
"""A head; in a `dict[str, HeadSpec]` of a Section its name defaults to its key."""
