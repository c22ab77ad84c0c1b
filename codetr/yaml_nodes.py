"""YAML in which every value remembers its file and line.

The values are those of YAML 1.2's core schema: `2e-4` is a number, `yes`, `no` and `on` are text, a key is always text.
A duplicate key is an error that names both lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from codetr.errors import ConfigError

Path = tuple[str | int, ...]

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_NULL = re.compile(r"~|null|Null|NULL|")

_TAG = "tag:yaml.org,2002:"
_CORE = ((_NULL, "null", ["~", "n", "N", ""]), (_BOOL, "bool", list("tTfF")), (_INT, "int", list("-+0123456789")))


@dataclass(frozen=True)
class Source:
    """Where a value was set: a file and a line, or a name alone (`command line`, `default`)."""

    name: str
    line: int | None = None

    def __str__(self) -> str:
        return self.name if self.line is None else f"{self.name}:{self.line}"


@dataclass(frozen=True)
class Node:
    """A value and its source. `value` is a scalar, a list of nodes or a dictionary of nodes.

    alone: nothing from below is mixed into this mapping (it began as an explicit `{}`).
    """

    value: Any
    source: Source
    alone: bool = False

    def plain(self) -> Any:
        """The value without its sources."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def child(self, key: str | int) -> Node | None:
        """The node under a key or an index, None if there is none."""
        if isinstance(self.value, dict):
            return self.value.get(str(key))
        if isinstance(self.value, list) and str(key).isdigit() and int(key) < len(self.value):
            item: Node = self.value[int(key)]
            return item
        return None


def parse(text: str, name: str, *, fixed: Source | None = None) -> Node:
    """The nodes of a YAML text; an empty text is null.

    name: what error messages call the text. fixed: the source of every value, instead of `name` and the line.
    Raises: ConfigError if the text is not YAML, repeats a key or asks for a type other than plain data.
    """
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = name if mark is None else f"{name}:{mark.line + 1}:{mark.column + 1}"
        raise ConfigError([f"{place}: not valid YAML: {error.problem or error.context}{_began(error)}"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{name}: not valid YAML: {' '.join(str(error).split())}"]) from error
    if root is None:
        return Node(None, fixed or Source(name, 1))
    return _Builder(name, fixed).node(root)


def _began(error: yaml.MarkedYAMLError) -> str:
    """Where the unfinished thing begins that an error ends, if that is another line."""
    start, end = error.context_mark, error.problem_mark
    if start is None or end is None or start.line == end.line:
        return ""
    return f" ({error.context}, which begins in line {start.line + 1})"


def read(value: object, source: Source) -> Node:
    """The nodes of plain data made in Python; paths become text, tuples become lists."""
    if isinstance(value, Mapping):
        entries = {str(key): read(item, source) for key, item in value.items()}
        return Node(entries, source, alone=not entries)
    if isinstance(value, list | tuple):
        return Node([read(item, source) for item in value], source)
    return Node(value if value is None or isinstance(value, bool | int | float) else str(value), source)


def dump(value: object, *, flow: bool = False) -> str:
    """Plain data as YAML that `parse` reads back to the same values."""
    text: str = yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=True if flow else None,
        width=float("inf") if flow else 120,
        allow_unicode=True,
    )
    return text.removesuffix("...\n").strip() if flow else text


class _Builder:
    def __init__(self, name: str, fixed: Source | None) -> None:
        self.name = name
        self.fixed = fixed
        self.open: set[int] = set()

    def node(self, found: yaml.Node, source: Source | None = None) -> Node:
        source = source or self.source(found)
        if isinstance(found, yaml.ScalarNode):
            return Node(self.scalar(found), source)
        if id(found) in self.open:
            raise ConfigError([f"{self.source(found)}: an anchor that contains itself"])
        if found.tag not in (f"{_TAG}map", f"{_TAG}seq"):
            raise self.unknown_tag(found)
        self.open.add(id(found))
        if isinstance(found, yaml.MappingNode):
            entries = self.entries(found)
            built = Node(entries, source, alone=not entries)
        else:
            built = Node([self.node(item) for item in found.value], source)
        self.open.discard(id(found))
        return built

    def entries(self, mapping: yaml.MappingNode) -> dict[str, Node]:
        """A value's line is that of its key."""
        entries: dict[str, Node] = {}
        lines: dict[str, int] = {}
        for key, value in mapping.value:
            source = self.source(key)
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError([f"{source}: a key must be a single word"])
            if key.value in entries:
                raise ConfigError([f"{source}: {key.value}: set twice, first in line {lines[key.value]}; keep one"])
            lines[key.value] = line
            entries[key.value] = self.node(value, source)
        return entries

    def scalar(self, found: yaml.ScalarNode) -> object:
        text = found.value
        kind = found.tag.removeprefix(_TAG)
        if kind not in _SCALARS:
            raise self.unknown_tag(found)
        try:
            return _SCALARS[kind](text)
        except ValueError:
            raise ConfigError([f"{self.source(found)}: {text!r} is not of the type {kind}"]) from None

    def unknown_tag(self, found: yaml.Node) -> ConfigError:
        return ConfigError([f"{self.source(found)}: the tag {found.tag!r} is not allowed: settings are plain data"])

    def source(self, found: yaml.Node) -> Source:
        return self.fixed or Source(self.name, found.start_mark.line + 1)


def _int(text: str) -> int:
    if text.startswith(("0o", "0x")):
        return int(text, 0)
    return int(text)


def _float(text: str) -> float:
    lowered = text.lower()
    return float(lowered.replace(".inf", "inf").replace(".nan", "nan"))


_SCALARS: Mapping[str, Callable[[str], object]] = {
    "str": str,
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": _int,
    "float": _float,
}


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for pattern, kind, starts in (*_CORE, (_FLOAT, "float", list("-+.0123456789"))):
        whole = re.compile(f"^(?:{pattern.pattern})$")
        for start in starts:
            table.setdefault(start, []).append((f"{_TAG}{kind}", whole))
    return table


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _resolvers()


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _resolvers()

    def ignore_aliases(self, data: object) -> bool:
        return True
