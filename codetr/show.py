"""A spec printed with the origin of every value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from codetr import yaml_nodes
from codetr.config import Section
from codetr.document import Document

COLUMN = 44


def annotated(section: Section, document: Document) -> str:
    """Validated settings as YAML that loads back, each value followed by a comment: the file and line that set it."""
    lines = [f"# {line}".rstrip() for line in document.docstring.splitlines()]
    pairs = list(_pairs(section.model_dump(mode="json"), document, ()))
    column = min(max((len(text) for text, _ in pairs), default=0), COLUMN)
    lines += [f"{text:<{column}}  # {origin}" if origin else text for text, origin in pairs]
    return "\n".join(lines) + "\n"


def _pairs(settings: Mapping[str, Any], document: Document, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """A line of YAML and the origin of its value, which a mapping leaves to its members."""
    indent = "  " * len(path)
    for key, value in settings.items():
        place = (*path, str(key))
        written = yaml_nodes.dump(str(key), flow=True)
        if isinstance(value, Mapping) and value:
            yield f"{indent}{written}:", ""
            yield from _pairs(value, document, place)
        else:
            yield f"{indent}{written}: {yaml_nodes.dump(value, flow=True)}", str(document.explain(place))
