"""A spec before validation: a file, what it extends, and the command line's overrides, every value with its source.

How values combine, lowest first: the fragments of `extends` from left to right, then the file, then each `key=value`.
- Mappings merge key by key; lists and scalars replace.
- An explicit `{}` replaces what is below it with nothing; so does any mapping given on the command line: `heads={}` is
  the bare base, `heads={atss: {}}` has ATSS alone.
- A component keeps its settings only as long as it keeps its name: where a later `base`, `backbone`, `neck` or head has
  another `name`, all of the earlier one's settings are dropped, because they were written for another component.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codetr import yaml_nodes, zoo
from codetr.errors import ConfigError, nearest
from codetr.yaml_nodes import Node, Source

EXTENDS = "extends"
COMMAND_LINE = Source("command line")
GIVEN = Source("given in Python")
DEFAULT = Source("default")

_COMPONENTS = (("base",), ("backbone",), ("neck",), ("heads",))
_KEY = re.compile(r"[^\s.=]+(\.[^\s.=]+)*")


@dataclass(frozen=True)
class Document:
    """Merged settings as plain data, and where each of them was set.

    name: the file's name without its ending; a run folder is called so. docstring: the file's leading comment block.
    """

    root: Node
    name: str = "spec"
    docstring: str = ""

    def plain(self) -> dict[str, Any]:
        """The settings as nested dictionaries, lists and scalars."""
        settings: dict[str, Any] = self.root.plain()
        return settings

    def source(self, path: Sequence[str | int]) -> Source:
        """Where the value at `path` was set; for a value that is not there, where the mapping that lacks it was."""
        node = self.root
        for key in path:
            child = node.child(key)
            if child is None:
                break
            node = child
        return node.source

    def explain(self, key: str | Sequence[str]) -> Source:
        """Which file and line set a key, dotted or in parts; `DEFAULT` for one that the document does not set."""
        node: Node | None = self.root
        for part in key.split(".") if isinstance(key, str) else key:
            node = None if node is None else node.child(part)
        return DEFAULT if node is None else node.source


def open_document(spec: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Document:
    """The document of a spec: a path, the name of a zoo spec, or a mapping made in Python.

    Raises: ConfigError, UserError if the spec, a fragment or an override cannot be read.
    """
    if isinstance(spec, Mapping):
        root, name, docstring = _extended(yaml_nodes.read(spec, GIVEN), Path.cwd(), ()), "spec", ""
    else:
        file = locate(spec)
        root, name, docstring = _load(file, ()), file.stem, zoo.docstring(file)
    if overrides:
        root = merge(root, _overrides(overrides))
    return Document(root, name, docstring)


def locate(spec: str | Path) -> Path:
    """The file of a spec: an existing path, else a name of the zoo.

    Raises: UserError with the nearest name.
    """
    path = Path(spec)
    if path.is_dir():
        raise ConfigError([f"{path}: a folder, not a spec; give a YAML file or a name that `codetr zoo list` prints"])
    return path if path.is_file() else zoo.find(str(spec))


def merge(below: Node, above: Node, path: tuple[str, ...] = ()) -> Node:
    """`above` laid over `below` by the rules at the top of this module."""
    if not isinstance(above.value, dict) or not isinstance(below.value, dict) or above.alone:
        return above
    if _component(below, path, above) != _component(above, path, below):
        return Node(above.value, above.source, alone=True)
    entries = dict(below.value)
    for key, node in above.value.items():
        entries[key] = merge(entries[key], node, (*path, key)) if key in entries else node
    return Node(entries, below.source, alone=below.alone)


def _component(node: Node, path: tuple[str, ...], other: Node) -> object:
    """The component that a mapping is for. One without a name is for the other's; a head's name defaults to its key."""
    if path[:1] not in _COMPONENTS:
        return None
    own, others = node.child("name"), other.child("name")
    if own is not None:
        return own.value
    if path[0] == "heads" and len(path) == 2:
        return path[1]
    return None if others is None else others.value


def _load(file: Path, opened: tuple[Path, ...]) -> Node:
    """A file's node laid over those of the fragments that it extends."""
    resolved = file.resolve()
    if resolved in opened:
        chain = " -> ".join(display(entry) for entry in (*opened[opened.index(resolved) :], resolved))
        raise ConfigError([f"{display(file)}: extends itself: {chain}"])
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{display(file)}: cannot be read: {error}"]) from error
    node = yaml_nodes.parse(text, display(file))
    if node.value is None:
        node = Node({}, node.source)
    if not isinstance(node.value, dict):
        raise ConfigError([f"{node.source}: a spec is a mapping of keys to settings"])
    return _extended(node, file.parent, (*opened, resolved))


def _extended(node: Node, folder: Path, opened: tuple[Path, ...]) -> Node:
    """Lay `node` over the fragments that it names."""
    own = Node({key: value for key, value in node.value.items() if key != EXTENDS}, node.source)
    extends = node.child(EXTENDS)
    if extends is None:
        return own
    if not isinstance(extends.value, list) or not all(isinstance(item.value, str) for item in extends.value):
        raise ConfigError([f"{extends.source}: {EXTENDS}: wants a list of names, such as [data/coco, schedules/12e]"])
    merged = Node({}, node.source)
    for item in extends.value:
        merged = merge(merged, _load(_fragment(item, folder), opened))
    return merge(merged, own)


def _fragment(entry: Node, folder: Path) -> Path:
    """A name is a file of the zoo; what ends in `.yaml` is a path from the folder of the file that extends it."""
    name: str = entry.value
    if name.endswith((".yaml", ".yml")):
        path = folder / name
        if path.is_file():
            return path
        options = (
            [option.relative_to(folder).as_posix() for option in folder.glob("**/*.y*ml")] if folder.is_dir() else []
        )
        place = f"no file {path}"
    else:
        options = zoo.names()
        if name in options:
            return zoo.find(name)
        place = f"no fragment {name!r} in the zoo"
    close = nearest(name, options)
    hint = f"did you mean {close!r}?" if close else "names are those of `codetr zoo list --all`"
    raise ConfigError([f"{entry.source}: {EXTENDS}: {place}; {hint}"])


def display(file: Path) -> str:
    """A file's name in messages: `zoo/...` for a shipped one, else from the current folder where that is shorter."""
    resolved = file.resolve()
    for base, prefix in ((zoo.root(), "zoo"), (Path.cwd(), "")):
        if resolved.is_relative_to(base):
            return (Path(prefix) / resolved.relative_to(base)).as_posix()
    return str(file)


def _overrides(texts: Sequence[str]) -> Node:
    """All `key=value` arguments as one mapping, the later over the earlier."""
    merged = Node({}, COMMAND_LINE)
    for text in texts:
        merged = _unite(merged, _override(text))
    return merged


def _unite(below: Node, above: Node) -> Node:
    """As `merge`, but the order of `base.name=...` and `base.dim=...` on one command line does not matter."""
    if not isinstance(above.value, dict) or not isinstance(below.value, dict) or above.alone:
        return above
    entries = dict(below.value)
    for key, node in above.value.items():
        entries[key] = _unite(entries[key], node) if key in entries else node
    return Node(entries, COMMAND_LINE, alone=below.alone)


def _override(text: str) -> Node:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not _KEY.fullmatch(key):
        raise ConfigError([f"{COMMAND_LINE}: {text!r}: an override is written key=value, such as train.epochs=36"])
    if key == "data" and not value.lstrip().startswith("{"):
        # A data set of the user's takes the place of one that the spec would render.
        entries = {"dir": Node(value.strip(), COMMAND_LINE), "synthetic": Node(None, COMMAND_LINE)}
        node = Node(entries, COMMAND_LINE)
    else:
        node = yaml_nodes.parse(value, f"{COMMAND_LINE}: {key}", fixed=COMMAND_LINE)
        if isinstance(node.value, dict):
            node = replace(node, alone=True)
    for part in reversed(key.split(".")):
        node = Node({part: node}, COMMAND_LINE)
    return node
