"""The image files that detection is measured on: some of a folder, or rendered ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from codetr.data.images import BadImage, image_size
from codetr.data.scene import compose
from codetr.errors import UserError

SIZES = ((480, 640), (640, 480), (427, 640))
"""Heights and widths of rendered images: the three most frequent of COCO. Half of them have the first one."""
OBJECTS = (1, 20)


def rendered(folder: Path, count: int) -> list[Path]:
    """Scenes as JPEG files of COCO's usual sizes, written into a folder."""
    files = []
    for number in range(count):
        height, width = SIZES[0 if number % 2 == 0 else 1 + number // 2 % 2]
        scene = compose(np.random.default_rng(number), max(height, width), objects=OBJECTS, clutter=1.0, crowd=False)
        files.append(folder / f"{number:06d}.jpg")
        Image.fromarray(scene.pixels[:height, :width]).save(files[-1], quality=90)
    return files


def chosen(folder: Path, count: int) -> list[Path]:
    """The first images of a folder and the folders in it, those that cannot be read left out.

    Raises: UserError if there are fewer.
    """
    files: list[Path] = []
    for file in sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")):
        try:
            image_size(file)
        except BadImage:
            continue
        files.append(file)
        if len(files) == count:
            return files
    raise UserError(f"{folder}: {len(files)} images (.jpg, .png) that can be read, not {count}. Set --images to fewer.")
