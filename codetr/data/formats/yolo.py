"""The YOLO layout: a text file of normalised boxes for each image, and class names in a YAML file or classes.txt.

Categories are numbered from 1, in the order of the class names. Boxes and polygons are normalised by the picture as it
is shown, since the tools of this layout apply the EXIF orientation; they are turned back to the pixels as stored.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from codetr.data.annotations import AnnotationFile, Entry
from codetr.data.formats.found import FOLDER_NAMES, NAMED, AnySplit, Found
from codetr.data.formats.headers import THREADS, Header, read_headers
from codetr.data.formats.yolo_folder import Description, ImageList, describe, list_images
from codetr.data.formats.yolo_labels import Shape, parse_line
from codetr.errors import UserError


def looked_for(split: AnySplit) -> str:
    """What `find` looks for, for a message."""
    name = " or ".join(FOLDER_NAMES[split])
    return f"data.yaml that names {name}, or images/{split} with labels/{split}, or {split}/images with {split}/labels"


def find(root: Path, split: AnySplit) -> Found | None:
    """The split, if a YAML file names it, or folders of images and labels are there."""
    description = describe(root)
    for name in FOLDER_NAMES[split]:
        if name in description.splits:
            return Found(description.path or root, partial(_read, root, description, description.splits[name]))
        for images, labels in ((f"images/{name}", f"labels/{name}"), (f"{name}/images", f"{name}/labels")):
            if (root / images).is_dir() and (root / labels).is_dir():
                return Found(root / labels, partial(_read, root, description, [images]))
    return None


def _read(root: Path, description: Description, sources: list[str], folder: Path | None) -> tuple[AnnotationFile, Path]:
    names = description.read_names()
    images = list_images(root, description, sources)
    headers = read_headers(images.folder, images.names)
    with ThreadPoolExecutor(max_workers=THREADS) as pool:  # they wait for the storage
        texts = list(pool.map(_text, images.labels))
    if all(text is None for text in texts):
        raise UserError(
            f"{images.path}: no image has a label file; looked for {images.labels[0]} and others. The labels of "
            "images/a.jpg belong in labels/a.txt"
        )
    return _file(images, names, headers, texts), folder or images.folder


def _text(path: Path) -> str | None:
    """The content of a label file, None if there is none: an image without objects."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def _file(images: ImageList, names: list[str], headers: list[Header | None], texts: list[str | None]) -> AnnotationFile:
    entries: list[Entry] = []
    annotations: list[Entry] = []
    flaws: list[str] = []
    turned = 0
    for identity, (name, label, header, text) in enumerate(
        zip(images.names, images.labels, headers, texts, strict=True), start=1
    ):
        entry: dict[str, Any] = {"id": identity, "file_name": name}
        entries.append(entry)
        if header is None:
            continue  # without a size: whoever uses the image says what is wrong with it
        entry |= {"height": header.height, "width": header.width}
        turned += header.orientation != 1 and bool(text)
        for number, line in enumerate((text or "").splitlines(), start=1):
            if not line.strip():
                continue
            shape = parse_line(line, classes=len(names), is_pose=images.is_pose)
            if isinstance(shape, str):
                flaws.append(f"{label}:{number}: {shape}")
            else:
                annotations.append(_annotation(shape, len(annotations) + 1, identity, header))
    if flaws:
        more = f"\n  and {len(flaws) - NAMED} more" if len(flaws) > NAMED else ""
        raise UserError("\n  ".join([f"lines of labels that cannot be used: {len(flaws)}", *flaws[:NAMED]]) + more)
    categories: list[Entry] = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    notes = (f"{images.path}: images that are turned by EXIF, and their labels with them: {turned}",) if turned else ()
    return AnnotationFile(images.path, entries, annotations, categories, {}, notes=notes)


def _annotation(shape: Shape, identity: int, image_id: int, header: Header) -> Entry:
    points = [_stored(point, header) for point in shape.points]
    left, top = (min(values) for values in zip(*points, strict=True))
    right, bottom = (max(values) for values in zip(*points, strict=True))
    area = (right - left) * (bottom - top)
    entry: dict[str, Any] = {"id": identity, "image_id": image_id, "category_id": shape.label + 1, "iscrowd": 0}
    entry |= {"bbox": [left, top, right - left, bottom - top], "area": area}
    if shape.is_polygon:
        entry |= {"segmentation": [[value for point in points for value in point]], "area": _polygon_area(points)}
    return entry


# From a point of the picture as shown to the same point as stored, both in 0..1, by EXIF orientation.
_BACK: dict[int, Callable[[float, float], tuple[float, float]]] = {
    1: lambda x, y: (x, y),
    2: lambda x, y: (1 - x, y),
    3: lambda x, y: (1 - x, 1 - y),
    4: lambda x, y: (x, 1 - y),
    5: lambda x, y: (y, x),
    6: lambda x, y: (y, 1 - x),
    7: lambda x, y: (1 - y, 1 - x),
    8: lambda x, y: (1 - y, x),
}


def _stored(point: tuple[float, float], header: Header) -> tuple[float, float]:
    x, y = _BACK[header.orientation](*point)
    return x * header.width, y * header.height


def _polygon_area(points: list[tuple[float, float]]) -> float:
    following = [*points[1:], points[0]]
    return abs(sum(x * v - u * y for (x, y), (u, v) in zip(points, following, strict=True))) / 2
