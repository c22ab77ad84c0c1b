"""Pictures for people: detections drawn on images, ground truth beside prediction, contact sheets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion

from codetr.errors import UserError
from codetr.structures import Detections

Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]
Font = ImageFont.FreeTypeFont

# Colours that people with any common colour blindness tell apart. Source: Okabe and Ito, "Color Universal Design".
_PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_TINTS = ((255, 0.0), (255, 0.45), (0, 0.35))  # a grey level and its share: plain, lighter, darker
_HALO = (0, 0, 0, 150)
_PAPER: Colour = (24, 24, 27)
_CAPTION: Colour = (235, 235, 235)
_READABLE = 480  # pictures with a longer side below this many pixels are enlarged before labels are put on them
_MASK = 0.45


def class_colour(label: int) -> Colour:
    """The colour of a class, the same in every picture; 21 different ones, then they repeat."""
    base = _PALETTE[label % len(_PALETTE)]
    grey, share = _TINTS[label // len(_PALETTE) % len(_TINTS)]
    red, green, blue = (round(value + share * (grey - value)) for value in base)
    return red, green, blue


def draw_detections(
    image: Image.Image,
    detections: Detections,
    classes: Sequence[str],
    *,
    score: float = 0.3,
    targets: Detections | None = None,
) -> Image.Image:
    """An image with the detections of at least this score: boxes, masks if there are any, class names and scores.

    detections: in pixels of the image. targets: ground truth in the same form (its scores are not shown); with it the
    picture becomes two side by side, ground truth on the left, prediction on the right.
    Small images are enlarged by a whole factor, so that labels can be read. The given image is not changed.
    Returns an RGB image.
    """
    prediction = _annotated(image, detections.above(score), classes, scores=True)
    if targets is None:
        return prediction
    truth = _annotated(image, targets, classes, scores=False)
    return _side_by_side((("ground truth", truth), ("prediction", prediction)))


def contact_sheet(images: Sequence[Image.Image], columns: int, *, cell: int | None = None) -> Image.Image:
    """Images in rows of `columns`, each centred in a cell as large as the largest of them.

    cell: shrinks every image to at most this many pixels a side beforehand.
    Raises: ValueError without images or columns.
    """
    if not images or columns < 1:
        raise ValueError(f"a contact sheet needs images and columns, got {len(images)} images, {columns} columns")
    tiles = [image.convert("RGB") for image in images]
    if cell is not None:
        for tile in tiles:
            tile.thumbnail((cell, cell), Image.Resampling.LANCZOS)
    width, height = max(tile.width for tile in tiles), max(tile.height for tile in tiles)
    gap = max(2, round(0.015 * max(width, height)))
    columns = min(columns, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), _PAPER)
    for index, tile in enumerate(tiles):
        left = gap + index % columns * (width + gap) + (width - tile.width) // 2
        top = gap + index // columns * (height + gap) + (height - tile.height) // 2
        sheet.paste(tile, (left, top))
    return sheet


@dataclass(frozen=True)
class _Mark:
    """What is drawn for one detection: its frame in pixels of the enlarged picture, and its label."""

    frame: Rectangle
    text: str
    colour: Colour


def _annotated(image: Image.Image, detections: Detections, classes: Sequence[str], *, scores: bool) -> Image.Image:
    factor = max(1, math.ceil(_READABLE / max(image.size)))
    picture = image.convert("RGB")
    if factor > 1:
        picture = picture.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    labels = detections.labels.tolist()
    if detections.masks is not None:
        picture = _blend(picture, detections.masks.cpu().numpy(), [class_colour(label) for label in labels])
    marks: list[_Mark] = []
    for box, label, value in zip(detections.boxes.tolist(), labels, detections.scores.tolist(), strict=True):
        text = f"{classes[label]} {value:.2f}" if scores else classes[label]
        marks.append(_Mark(_frame(box, factor, picture.size), text, class_colour(label)))
    _draw(picture, marks)
    return picture


def _frame(box: Sequence[float], factor: int, size: tuple[int, int]) -> Rectangle:
    """First and last column and row of a box, inside the picture."""
    width, height = size
    left, top, right, bottom = (value * factor for value in box)
    x, y = min(max(math.floor(left), 0), width - 1), min(max(math.floor(top), 0), height - 1)
    return x, y, max(x, min(math.ceil(right), width) - 1), max(y, min(math.ceil(bottom), height) - 1)


def _blend(picture: Image.Image, masks: np.ndarray, colours: Sequence[Colour]) -> Image.Image:
    """Masks, (D, h, w) bool, laid over a picture that is a whole factor larger; the first lies on top."""
    pixels = np.asarray(picture, dtype=np.float32).copy()
    rim = max(1, round(_stroke(picture.size) / 2))
    for mask, colour in reversed(list(zip(masks, colours, strict=True))):
        smooth = Image.fromarray(mask.astype(np.uint8) * 255).resize(picture.size, Image.Resampling.BILINEAR)
        inside = np.asarray(smooth) > 127
        paint = np.asarray(colour, dtype=np.float32)
        pixels[inside] += _MASK * (paint - pixels[inside])
        pixels[inside & ~binary_erosion(inside, iterations=rim)] = paint
    return Image.fromarray(pixels.astype(np.uint8))


def _stroke(size: tuple[int, int]) -> int:
    return max(2, round(0.0035 * math.sqrt(size[0] * size[1])))


def _font(size: tuple[int, int]) -> Font:
    font = ImageFont.load_default(size=max(11, round(0.024 * math.sqrt(size[0] * size[1]))))
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise UserError(
            "this Pillow was built without FreeType, which labels need; install a wheel: pip install pillow"
        )
    return font


def _draw(picture: Image.Image, marks: Sequence[_Mark]) -> None:
    """Draws marks, the most important one first in the list and last, so topmost, on the picture; in place."""
    pen = ImageDraw.Draw(picture, "RGBA")
    stroke, font = _stroke(picture.size), _font(picture.size)
    for mark in reversed(marks):
        _outline(pen, mark, stroke)
    chips: list[Rectangle] = []
    pad = max(2, stroke)
    ascent, descent = _reach(font)
    for mark in marks:
        chip = (math.ceil(font.getlength(mark.text)) + 2 * pad, ascent + descent + pad)
        chips.append(_chip_place(mark.frame, chip, picture.size, chips))
    for mark, place in reversed(list(zip(marks, chips, strict=True))):
        dark = sum(weight * value for weight, value in zip((0.299, 0.587, 0.114), mark.colour, strict=True)) < 125
        pen.rounded_rectangle(place, radius=pad, fill=(*mark.colour, 235), outline=_HALO)
        start = (place[0] + pad, place[1] + pad // 2 + ascent)
        pen.text(start, mark.text, font=font, anchor="ls", fill="white" if dark else "black")


def _outline(pen: ImageDraw.ImageDraw, mark: _Mark, stroke: int) -> None:
    """A frame whose outer edge is the box, between two dark hairlines that part it from any background."""
    left, top, right, bottom = mark.frame
    pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_HALO)
    pen.rectangle(mark.frame, outline=mark.colour, width=stroke)
    if right - left > 2 * stroke + 2 and bottom - top > 2 * stroke + 2:
        pen.rectangle((left + stroke, top + stroke, right - stroke, bottom - stroke), outline=_HALO)


def _reach(font: Font) -> tuple[int, int]:
    """How far letters reach above and below the baseline, the same for every label."""
    _, top, _, bottom = font.getbbox("Agjy|", anchor="ls")
    return round(-top), round(bottom)


def _chip_place(frame: Rectangle, chip: tuple[int, int], size: tuple[int, int], taken: list[Rectangle]) -> Rectangle:
    """Where a label goes: above its box, below, inside or beside it, wholly in the picture and clear of other labels.

    If no place is clear, the one that covers least of the others.
    """
    left, top, right, bottom = frame
    width, height = chip
    corners = (
        (left, top - height),
        (right - width + 1, top - height),
        (left, bottom + 1),
        (right - width + 1, bottom + 1),
        (left, top),
        (left, bottom - height + 1),
        (right + 1, top),
        (left - width, top),
    )
    places: list[Rectangle] = []
    for x, y in corners:
        x, y = max(0, min(x, size[0] - width)), max(0, min(y, size[1] - height))
        places.append((x, y, x + width - 1, y + height - 1))
    return min(places, key=lambda place: sum(_overlap(place, other) for other in taken))


def _overlap(a: Rectangle, b: Rectangle) -> int:
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    return max(width, 0) * max(height, 0)


def _side_by_side(pictures: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Pictures of one size in a row, each under its caption."""
    width, height = pictures[0][1].size
    font = _font((width, height))
    gap, head = max(4, width // 100), 2 * sum(_reach(font))
    row = Image.new("RGB", (len(pictures) * (width + gap) - gap, height + head), _PAPER)
    pen = ImageDraw.Draw(row)
    for index, (caption, picture) in enumerate(pictures):
        left = index * (width + gap)
        row.paste(picture, (left, head))
        pen.text((left + width // 2, head // 2), caption, font=font, anchor="mm", fill=_CAPTION)
    return row
