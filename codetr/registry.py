"""Components by name: a name is a module, `codetr/models/<kind>/<name>.py`, and there is no table.

A component from outside is named `package.module:Class`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
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

JSON_MARK = "x-codetr-component"


class UnknownComponent(UserError):
    """No component of this kind has the name."""


def names(kind: Kind) -> list[str]:
    """The names of a kind: the files of its folder, found without importing any of them."""
    folder = Path(__file__).resolve().parent / "models" / kind
    found = (module.name for module in pkgutil.iter_modules([str(folder)]))
    return sorted(name for name in found if name != "contract" and not name.startswith("_"))


def find(kind: Kind, name: str) -> type[Any]:
    """The class of a component: the one in its module that fulfils the contract of its kind.

    Raises: UnknownComponent with the nearest name; UserError if its module fails to import (which is the cause), or if
    the class does not fulfil the contract.
    """
    module_name, colon, class_name = name.partition(":")
    if not colon:
        if name not in names(kind):
            raise UnknownComponent(
                f"no {SINGULAR[kind]} is called {name!r}; {suggestion(name, names(kind), kind='names')}"
            )
        module_name = f"codetr.models.{kind}.{name}"
    module = _import(kind, name, module_name)
    contract = getattr(importlib.import_module(f"codetr.models.{kind}.contract"), CONTRACTS[kind])
    if colon:
        component = getattr(module, class_name, None)
        if component is None:
            raise UnknownComponent(
                f"the module {module_name} has no {class_name!r}; {suggestion(class_name, _own(module))}"
            )
    else:
        component = _only(module, contract)
    return _checked(component, contract, name)


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
