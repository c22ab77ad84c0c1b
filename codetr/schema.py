"""The JSON schema of a spec, with the settings of every component, for completion and checks in editors."""

from __future__ import annotations

from typing import Any

from codetr.config import Section
from codetr.document import EXTENDS
from codetr.registry import JSON_MARK, Kind, find, names

PLACE = "#/$defs/"


def json_schema(section: type[Section]) -> dict[str, Any]:
    """The schema of a spec file. No key is required, because a fragment may give it."""
    definitions: dict[str, Any] = {}
    schema: dict[str, Any] = _embedded(section, "", definitions)
    schema["properties"][EXTENDS] = {"type": "array", "items": {"type": "string"}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "$defs": definitions}


def _embedded(section: type[Section], prefix: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """A section's schema whose own definitions have moved to the common ones, under a prefix."""
    schema = section.model_json_schema(ref_template=f"{PLACE}{prefix}{{model}}")
    for name, definition in schema.pop("$defs", {}).items():
        definitions[f"{prefix}{name}"] = _resolved(definition, definitions)
    resolved: dict[str, Any] = _resolved(schema, definitions)
    return resolved


def _resolved(schema: Any, definitions: dict[str, Any]) -> Any:
    """Refer every mark of a component to the components of its kind."""
    if isinstance(schema, list):
        return [_resolved(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if JSON_MARK in schema:
        return {"$ref": f"{PLACE}{_kind(schema[JSON_MARK], definitions)}"}
    return {
        key: _resolved(value, definitions)
        for key, value in schema.items()
        if key != "required" or not isinstance(value, list)
    }


def _kind(kind: Kind, definitions: dict[str, Any]) -> str:
    """Define the components of a kind once; the name of the definition. A component may hold one of its own kind."""
    if kind not in definitions:
        definitions[kind] = {}
        choices = []
        for name in names(kind):
            schema = _embedded(find(kind, name).Config, f"{kind}.{name}.", definitions)
            schema["properties"] = {"name": {"const": name}, **schema.get("properties", {})}
            choices.append(schema)
        outside = {"type": "object", "properties": {"name": {"pattern": ":"}}, "required": ["name"]}
        definitions[kind] = {"anyOf": [*choices, outside]}
    return kind
