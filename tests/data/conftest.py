"""A maker of tiny COCO folders. Makes `bad_input.py` importable from the tests beside it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]

Writer = Callable[..., Path]


def image(identity: int, name: str, width: int = 40, height: int = 30) -> dict[str, Any]:
    return {"id": identity, "file_name": name, "width": width, "height": height}


def annotation(identity: int, image_id: int, category_id: int, bbox: list[float], **more: Any) -> dict[str, Any]:
    area = max(bbox[2] * bbox[3], 0)
    return {"id": identity, "image_id": image_id, "category_id": category_id, "bbox": bbox, "area": area, **more}


@pytest.fixture
def entries() -> tuple[Callable[..., dict[str, Any]], Callable[..., dict[str, Any]]]:
    """Makers of an image entry (id, name, width, height) and an annotation (id, image id, category id, bbox, ...)."""
    return image, annotation


@pytest.fixture
def write_coco(tmp_path: Path) -> Writer:
    """Writes one split of a data folder, noise for pictures, and returns the folder."""

    def write(
        images: Sequence[dict[str, Any]],
        annotations: Sequence[dict[str, Any]],
        *,
        categories: Sequence[dict[str, Any]] = CATEGORIES,
        split: str = "train",
        root: Path = tmp_path / "set",
        pictures: bool = True,
    ) -> Path:
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / "images").mkdir(exist_ok=True)
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        for number, entry in enumerate(images if pictures else ()):
            noise = np.random.default_rng([len(split), number]).integers(0, 256, (entry["height"], entry["width"], 3))
            Image.fromarray(noise.astype(np.uint8)).save(root / "images" / entry["file_name"])
        return root

    return write
