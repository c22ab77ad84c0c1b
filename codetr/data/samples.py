"""Images of a data set drawn at random, with their boxes, masks and class names. Imports no torch."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from codetr.data.annotations import Entry, ImageFolder, annotation_flaw, image_flaw, is_crowd, stated_size
from codetr.data.images import BadImage, decode, read_bytes
from codetr.data.segments import segment_flaw
from codetr.data.sheet import contact_sheet, draw_objects
from codetr.data.statistics import SplitStatistics
from codetr.errors import UserError

CELL = 512  # px, the longer side of a picture on the sheet


def sample_sheet(
    splits: Sequence[tuple[SplitStatistics, Path]], *, samples: int, seed: int, cell: int = CELL
) -> Image.Image:
    """A contact sheet of images of all splits, every image as likely as any other; bad ones are passed over.

    splits: figures and image folder of each. Raises: UserError if no image can be drawn.
    """
    places = [(place, index) for place, (split, _) in enumerate(splits) for index in range(len(split.file.images))]
    random.Random(seed).shuffle(places)
    pictures: list[Image.Image] = []
    captions: list[str] = []
    by_image = [_by_image(split.file.annotations) for split, _ in splits]
    labels = {identity: row for row, identity in enumerate(sorted({i for split, _ in splits for i in split.classes}))}
    for place, index in places:
        split, folder = splits[place]
        entry = split.file.images[index]
        drawn = _drawn(entry, by_image[place].get(entry.get("id"), []), split, ImageFolder(folder), labels, cell)
        if drawn is not None:
            pictures.append(drawn)
            captions.append(f"{split.split}: {entry['file_name']}")
        if len(pictures) == samples:
            break
    if not pictures:
        raise UserError(f"{splits[0][0].file.path}: no image can be drawn; codetr data check says why")
    return contact_sheet(pictures, captions)


def _by_image(annotations: Sequence[Entry]) -> dict[Any, list[Entry]]:
    found: dict[Any, list[Entry]] = defaultdict(list)
    for entry in annotations:
        if annotation_flaw(entry) is None:
            found[entry["image_id"]].append(entry)
    return found


def _drawn(
    entry: Entry,
    annotations: Sequence[Entry],
    split: SplitStatistics,
    folder: ImageFolder,
    labels: Mapping[int, int],
    cell: int,
) -> Image.Image | None:
    """One picture, at most `cell` pixels a side; None if its file cannot be read."""
    if image_flaw(entry) is not None or folder.leaves(entry["file_name"]):
        return None
    path = folder.find(entry["file_name"])
    if path is None:
        return None
    try:
        image = Image.fromarray(decode(read_bytes(path), path))
    except BadImage:  # reported by `codetr data check`, and there are others to draw
        return None
    known = [annotation for annotation in annotations if annotation["category_id"] in split.classes]
    known.sort(key=lambda annotation: annotation["bbox"][2] * annotation["bbox"][3])  # small ones on top
    # As stated, since a large image may have been decoded smaller.
    stored = stated_size(entry) or (image.height, image.width)
    image.thumbnail((cell, cell), Image.Resampling.LANCZOS)
    across, down = image.width / stored[1], image.height / stored[0]
    boxes = [(x * across, y * down, (x + w) * across, (y + h) * down) for x, y, w, h in (a["bbox"] for a in known)]
    crowd = [is_crowd(annotation) for annotation in known]
    return draw_objects(
        image,
        boxes,
        [labels[annotation["category_id"]] for annotation in known],
        ["crowd" if c else split.classes[a["category_id"]] for a, c in zip(known, crowd, strict=True)],
        masks=_masks(known, stored, image.size),
        crowd=crowd,
    )


def _masks(known: Sequence[Entry], stored: tuple[int, int], size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """(N, h, w), nothing where there is no sound segmentation; None if there is none at all."""
    if not any(annotation.get("segmentation") for annotation in known):
        return None
    return np.stack([_mask(annotation.get("segmentation"), stored, size) for annotation in known])


def _mask(segment: Any, stored: tuple[int, int], size: tuple[int, int]) -> NDArray[np.bool_]:
    canvas = Image.new("1", size)
    if not segment or segment_flaw(segment, stored) is not None:
        return np.asarray(canvas)
    if isinstance(segment, list):
        pen = ImageDraw.Draw(canvas)
        factors = (size[0] / stored[1], size[1] / stored[0])
        for polygon in segment:
            pen.polygon([value * factors[place % 2] for place, value in enumerate(polygon)], fill=1)
        return np.asarray(canvas)
    from hotcoco import mask as run_length

    pixels = run_length.decode(run_length.frPyObjects(segment, *stored))
    return np.asarray(Image.fromarray(pixels * np.uint8(255)).resize(size, Image.Resampling.BILINEAR)) > 127
