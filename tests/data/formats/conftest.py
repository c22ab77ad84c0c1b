"""Makers of pictures, and of the YOLO and VOC forms of a COCO file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from PIL import Image

REAL = Path(__file__).resolve().parents[3].parent / "shared" / "data"


@pytest.fixture
def picture() -> Callable[..., Path]:
    """Writes a picture of one colour, its folders too, with an EXIF orientation on demand."""

    def write(path: Path, width: int = 40, height: int = 30, *, orientation: int = 1) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.new("RGB", (width, height)).save(path, exif=exif)
        return path

    return write


@pytest.fixture
def write_text() -> Callable[[Path, str], Path]:
    """Writes a text, its folders too."""

    def write(path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture(params=["bccd", "coco_cc"])
def real(request: pytest.FixtureRequest) -> tuple[dict[str, Any], Path]:
    """The content of a real COCO file and its image folder."""
    root = REAL / request.param
    path = {"bccd": root / "annotations/instances_val.json", "coco_cc": root / "instances_cc_by.json"}[request.param]
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return json.loads(path.read_text()), root / "images"


def yolo_lines(content: dict[str, Any], image: dict[str, Any], *, polygons: bool = False) -> str:
    """The label file of an image, written independently of the reader."""
    classes = [entry["id"] for entry in content["categories"]]
    lines = []
    for entry in content["annotations"]:
        if entry["image_id"] == image["id"]:
            x, y, w, h = entry["bbox"]
            values = [
                (x + w / 2) / image["width"],
                (y + h / 2) / image["height"],
                w / image["width"],
                h / image["height"],
            ]
            if polygons and isinstance(entry["segmentation"], list):
                scale = [image["width"], image["height"]] * (len(entry["segmentation"][0]) // 2)
                values = [value / side for value, side in zip(entry["segmentation"][0], scale, strict=True)]
            lines.append(" ".join(str(value) for value in [classes.index(entry["category_id"]), *values]))
    return "\n".join(lines)


def voc_xml(content: dict[str, Any], image: dict[str, Any]) -> str:
    """The XML file of an image, corners from 1 on and inclusive, written independently of the reader."""
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    objects = ""
    for entry in content["annotations"]:
        if entry["image_id"] == image["id"]:
            x, y, w, h = entry["bbox"]
            objects += (
                f"<object><name>{escape(names[entry['category_id']])}</name>"
                f"<difficult>{entry.get('iscrowd', 0)}</difficult><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
                f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            )
    size = f"<size><width>{image['width']}</width><height>{image['height']}</height><depth>3</depth></size>"
    return f"<annotation><filename>{escape(image['file_name'])}</filename>{size}{objects}</annotation>"
