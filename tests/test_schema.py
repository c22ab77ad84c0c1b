"""The JSON schema of a spec."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from codetr.config import Section
from codetr.registry import BaseSpec, HeadSpec, find, names
from codetr.schema import json_schema


class Model(Section):
    base: BaseSpec
    heads: dict[str, HeadSpec] = Field(default_factory=dict)
    depth: int = Field(ge=1)


def references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from (value for key, value in schema.items() if key == "$ref")
        yield from (found for value in schema.values() for found in references(value))
    elif isinstance(schema, list):
        yield from (found for item in schema for found in references(item))


def test_every_component_is_a_choice_with_its_own_settings() -> None:
    schema = json_schema(Model)
    assert schema["properties"]["base"] == {"$ref": "#/$defs/bases"}
    assert schema["properties"]["heads"]["additionalProperties"] == {"$ref": "#/$defs/heads"}
    heads = schema["$defs"]["heads"]["anyOf"]
    for name, choice in zip(names("heads"), heads, strict=False):
        assert choice["properties"]["name"] == {"const": name}
        assert set(choice["properties"]) == {"name", *find("heads", name).Config.model_fields}
        assert choice["additionalProperties"] is False
    assert heads[-1]["properties"]["name"] == {"pattern": ":"}


def test_the_schema_is_closed_and_requires_nothing_that_a_fragment_may_give() -> None:
    schema = json_schema(Model)
    assert {reference.removeprefix("#/$defs/") for reference in references(schema)} <= set(schema["$defs"])
    assert "required" not in schema
    assert schema["properties"]["depth"]["minimum"] == 1
    assert "extends" in schema["properties"]
