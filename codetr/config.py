"""YAML to validated settings: every section is a frozen pydantic model, every error names its place.

A section does not guess. An unknown key is an error that names the nearest known one; a number written as text is read
(`"2e-4"`), but `true` is no number, and neither `no` nor `1` is a truth value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from codetr import yaml_nodes
from codetr.document import DEFAULT, Document
from codetr.errors import ConfigError, suggestion

__all__ = ["Section", "dump", "validate"]

NAMED_BY_KEY = "codetr.named_by_key"

S = TypeVar("S", bound="Section")


def _without_guesses(schema: Any) -> Any:
    """A core schema in which numbers refuse `true`, truth values are `true` and `false` alone, and components that are
    `NAMED_BY_KEY` get their key as their name."""
    if isinstance(schema, list | tuple):
        return type(schema)(_without_guesses(item) for item in schema)
    if not isinstance(schema, dict) or schema.get("function", {}).get("function") in (_no_bool, _name_by_key):
        return schema
    walked = {key: _walk(key, value) for key, value in schema.items()}
    kind = walked.get("type")
    if kind == "bool":
        return {**walked, "strict": True}
    if kind in ("int", "float"):
        return core_schema.no_info_before_validator_function(_no_bool, cast(CoreSchema, walked))
    if kind == "dict" and walked.get("values_schema", {}).get("metadata", {}).get(NAMED_BY_KEY):
        return core_schema.no_info_before_validator_function(_name_by_key, cast(CoreSchema, walked))
    return walked


def _walk(key: str, value: Any) -> Any:
    if key in ("config", "default", "function", "metadata", "serialization"):
        return value
    if key in ("fields", "choices") and isinstance(value, dict):
        return {name: _without_guesses(item) for name, item in value.items()}
    return _without_guesses(value)


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("bool_for_number", "{message}", {"message": "must be a number"})
    return value


def _name_by_key(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    return {key: {"name": key, **item} if isinstance(item, Mapping) else item for key, item in value.items()}


class Section(BaseModel):
    """A part of a spec. Unknown keys are errors; values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: CoreSchema = _without_guesses(handler(source))
        return schema

    @model_validator(mode="wrap")
    @classmethod
    def _say_what_is_valid(cls, data: Any, handler: ModelWrapValidatorHandler[S]) -> S:
        """Put every error into words while the section that knows the valid keys is at hand."""
        try:
            return handler(data)
        except ValidationError as error:
            details = [_in_words(entry, cls) for entry in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(cls.__name__, details) from None


def validate(section: type[S], document: Document) -> S:
    """The document's settings as `section`.

    Raises: ConfigError with every error at once, one line each: where, dotted path, what was found, what is allowed.
    """
    settings = document.plain()
    try:
        return section.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(_lines(error, document, settings), about=f"the spec {document.name!r}") from None


def dump(section: Section) -> str:
    """Settings as YAML, defaults included, that loads back to the same values."""
    return yaml_nodes.dump(section.model_dump(mode="json"))


_WORDS = {
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "list_type": "must be a list",
    "missing": "is missing",
    "model_type": "must be a mapping",
    "none_required": "must be null",
    "path_type": "must be a path",
    "string_type": "must be text",
    "tuple_type": "must be a list",
}


def _in_words(entry: Any, section: type[Section]) -> InitErrorDetails:
    """An error's location and input, with a message in the words of this project."""
    kind, location, context = entry["type"], entry["loc"], entry.get("ctx", {})
    if "message" in context:
        message = str(context["message"])
    elif kind == "extra_forbidden":
        message = f"unknown key; {suggestion(str(location[-1]), section.model_fields, kind='keys')}"
    elif kind == "value_error":
        message = str(context["error"])
    else:
        message = _WORDS.get(kind) or entry["msg"].replace("Input should", "must", 1)
    custom = PydanticCustomError(kind, "{message}", {"message": message})
    return InitErrorDetails(type=custom, loc=location, input=entry["input"])


def _lines(error: ValidationError, document: Document, settings: Mapping[str, Any]) -> list[str]:
    """One line for each wrong value, in the order of the spec; what the branches of a union want is joined by `or`."""
    wanted: dict[yaml_nodes.Path, list[str]] = {}
    found: dict[yaml_nodes.Path, str] = {}
    for entry in error.errors(include_url=False):
        absent = entry["type"] == "missing"
        path = _path(entry["loc"], settings, absent=absent)
        if entry["msg"] not in wanted.setdefault(path, []):
            wanted[path].append(entry["msg"])
        shown = absent or entry["type"] in ("extra_forbidden", "value_error", "component")
        found.setdefault(path, "" if shown else f"found {_short(entry['input'])}, ")
    return [
        f"{document.source(path)}: {'.'.join(map(str, path)) or 'spec'}: {found[path]}{' or '.join(messages)}"
        for path, messages in wanted.items()
    ]


def _path(location: Sequence[str | int], settings: object, *, absent: bool) -> yaml_nodes.Path:
    """The part of an error's location that lies in the settings: pydantic adds the names of union branches."""
    path: list[str | int] = []
    value = settings
    for key in location:
        inside = key in value if isinstance(value, Mapping) else isinstance(value, list) and key in range(len(value))
        if inside:
            value = value[key]  # type: ignore[index]
            path.append(key)
    return (*path, location[-1]) if absent else tuple(path)


def _short(value: object) -> str:
    """A value as YAML, cut to a readable length."""
    if isinstance(value, Mapping):
        return "a mapping" if value else "{}"
    plain = yaml_nodes.read(value, DEFAULT).plain()
    text = repr(plain) if isinstance(plain, str) else yaml_nodes.dump(plain, flow=True)
    return text if len(text) <= 60 else f"{text[:57]}..."
