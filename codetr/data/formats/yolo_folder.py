"""What a YOLO data folder says of itself: class names, and which images belong to a split."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from codetr.data.formats.found import FOLDER_NAMES, files_below
from codetr.errors import UserError

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
CLASS_FILES = ("classes.txt", "labels/classes.txt", "obj.names", "data.names")
SPLIT_KEYS = tuple(name for names in FOLDER_NAMES.values() for name in names)


@dataclass(frozen=True)
class Description:
    """path: the YAML file, None without one. base: the folder its paths start from. splits: folders or lists by key.

    read_names: the class names by number; raises UserError.
    """

    path: Path | None
    base: Path
    splits: Mapping[str, list[str]] = field(default_factory=dict)
    is_pose: bool = False
    read_names: Callable[[], list[str]] = list


@dataclass(frozen=True)
class ImageList:
    """path: what messages name. folder: where `names` start. labels: the label file of each, there or not."""

    path: Path
    folder: Path
    names: list[str]
    labels: list[Path]
    is_pose: bool


def describe(root: Path) -> Description:
    """Reads the YAML file of a data folder, if it has one."""
    for path in _yaml_files(root):
        try:
            # All scalars stay text: a class called `no` is no boolean. Nothing but lists and mappings is built.
            content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
            if path.name in YAML_NAMES:
                return Description(path, root, {key: ["."] for key in SPLIT_KEYS}, read_names=_fail(path, error))
            continue  # some other tool's
        if isinstance(content, dict) and ("names" in content or "nc" in content):
            return _described(root, path, content)
    return Description(None, root, read_names=lambda: _names_of_file(root))


def list_images(root: Path, description: Description, sources: list[str]) -> ImageList:
    """The images of folders or of text files that list them. Raises: UserError, also for a path out of the folder."""
    places = [_inside(root, description, source) for source in sources]
    if len(places) == 1 and places[0].is_dir():
        folder = places[0]  # may be a link; one image folder needs no longer names
        names = files_below(folder)
    else:
        folder = root
        names = [name for place in places for name in _names_of(root, description, place)]
    if not names:
        raise UserError(f"{places[0]}: there are no images in it")
    start = os.path.relpath(folder, root).replace(os.sep, "/")
    labels = [root / _label_of(name if start == "." else f"{start}/{name}") for name in names]
    path = description.path if description.path is not None else places[0]
    return ImageList(path, folder, names, labels, description.is_pose)


def _yaml_files(root: Path) -> list[Path]:
    named = [root / name for name in YAML_NAMES if (root / name).is_file()]
    if named or not root.is_dir():
        return named
    return sorted(path for path in root.iterdir() if path.suffix in (".yaml", ".yml") and path.is_file())


def _described(root: Path, path: Path, content: Mapping[str, Any]) -> Description:
    splits = {}
    for key in SPLIT_KEYS:
        value = content.get(key)
        values = value if isinstance(value, list) else [value]
        paths = [item.strip() for item in values if isinstance(item, str) and item.strip()]
        if paths:
            splits[key] = paths
    stated = content.get("path")
    base = _confined(root, root, stated) if isinstance(stated, str) else None
    return Description(
        path,
        base if base is not None and base.is_dir() else root,  # `path` is often where the data lay elsewhere
        splits,
        is_pose="kpt_shape" in content,
        read_names=lambda: _names_of_yaml(path, content),
    )


def _names_of_yaml(path: Path, content: Mapping[str, Any]) -> list[str]:
    names = content.get("names")
    if names is None and str(content.get("nc")).isdecimal():
        return [f"class_{number}" for number in range(int(content["nc"]))]
    if isinstance(names, dict):
        keys = list(names)
        if sorted(keys) != sorted(str(number) for number in range(len(keys))):
            raise UserError(f"{path}: names must be numbered 0 to {len(keys) - 1}, found {', '.join(keys[:10])}")
        names = [names[str(number)] for number in range(len(keys))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"{path}: names must be a list of class names, or a mapping from numbers to them")
    return names


def _names_of_file(root: Path) -> list[str]:
    for name in CLASS_FILES:
        path = root / name
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            names = [line.strip() for line in lines if line.strip()]
            if names:
                return names
    raise UserError(
        f"{root}: the labels are numbers, and nothing names the classes; add a data.yaml with `names: [cat, dog]`, or "
        "classes.txt with one name a line"
    )


def _inside(root: Path, description: Description, source: str) -> Path:
    """The folder or list that a YAML file names: from `path`, then from the data folder itself."""
    place = _first(root, description.base, source)
    if place is not None:
        return place
    raise UserError(
        f"{description.path or root}: {source!r} was not found in {root}; paths start at the folder of the YAML file, "
        "or at its `path`, and stay in it: put images and labels there"
    )


def _first(root: Path, base: Path, source: str) -> Path | None:
    within = source.replace("\\", "/")
    while within.startswith(("../", "./")):  # Roboflow writes ../train/images for train/images
        within = within.partition("/")[2]
    for place in (_confined(root, base, source), _confined(root, root, source), _confined(root, root, within)):
        if place is not None and place.exists():
            return place
    return None


def _confined(root: Path, base: Path, source: str) -> Path | None:
    """`source` from `base`, None if that is not in `root`. Links in it are for `ImageFolder` to judge."""
    if "\0" in source:
        return None
    place = Path(os.path.normpath(os.path.join(base, source)))
    for top in (Path(os.path.normpath(root)), Path(os.path.realpath(root))):
        if place == top or top in place.parents:
            return root / place.relative_to(top)
    return None


def _names_of(root: Path, description: Description, place: Path) -> list[str]:
    """Images of a folder, or of a text file with one path a line, as names from the data folder."""
    start = os.path.relpath(place, root).replace(os.sep, "/")
    if place.is_dir():
        return [name if start == "." else f"{start}/{name}" for name in files_below(place)]
    names = []
    lines = place.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        found = _confined(root, place.parent, line.strip()) or _confined(root, description.base, line.strip())
        if found is not None and not found.exists():
            found = _first(root, description.base, line.strip()) or found
        if found is None:
            raise UserError(f"{place}:{number}: {line.strip()!r} leads out of the data folder {root}")
        names.append(os.path.relpath(found, root).replace(os.sep, "/"))
    return names


def _label_of(name: str) -> str:
    """labels/train/a.txt of images/train/a.jpg: the last folder called images counts; without one, beside the image."""
    parts = list(PurePosixPath(name).with_suffix(".txt").parts)
    folders = [index for index, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return "/".join(parts)


def _fail(path: Path, error: Exception) -> Callable[[], list[str]]:
    def fail() -> list[str]:
        raise UserError(f"{path}: not readable as YAML ({error})") from error

    return fail
