"""Pictures of data for people: boxes, masks and names drawn on an image, and contact sheets. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from codetr.data.lettering import Font, font_for, plain_font, reach

Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]

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
_CROWD: Colour = (150, 150, 150)
_READABLE = 480  # pictures with a longer side below this many pixels are enlarged before labels are put on them
_MASK = 0.45
_LONG = 40  # letters of a label


def class_colour(label: int) -> Colour:
    """The colour of a class, the same in every picture; 21 different ones, then they repeat."""
    base = _PALETTE[label % len(_PALETTE)]
    grey, share = _TINTS[label // len(_PALETTE) % len(_TINTS)]
    red, green, blue = (round(value + share * (grey - value)) for value in base)
    return red, green, blue


def draw_objects(
    image: Image.Image,
    boxes: ArrayLike,
    labels: Sequence[int],
    texts: Sequence[str],
    *,
    masks: NDArray[np.bool_] | None = None,
    crowd: Sequence[bool] | None = None,
) -> Image.Image:
    """An RGB image with objects, the first on top: boxes, masks if there are any, and a text on each box.

    boxes: (N, 4), xyxy in pixels of the image. labels: classes, which give the colours. masks: (N, h, w) bool.
    crowd: regions that are drawn grey. Small images are enlarged by a whole factor, so that texts can be read. The
    given image is not changed.
    """
    factor = max(1, math.ceil(_READABLE / max(image.size)))
    picture = image.convert("RGB")
    if factor > 1:
        picture = picture.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    regions = [False] * len(labels) if crowd is None else crowd
    colours = [_CROWD if region else class_colour(label) for label, region in zip(labels, regions, strict=True)]
    if masks is not None:
        picture = _blend(picture, masks, colours)
    corners: list[list[float]] = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).tolist()
    frames = [_frame(box, factor, picture.size) for box in corners]
    _draw(picture, [_Mark(*mark) for mark in zip(frames, texts, colours, strict=True)])
    return picture


def contact_sheet(
    pictures: Sequence[Image.Image],
    captions: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    cell: int | None = None,
) -> Image.Image:
    """Pictures in rows as high as the highest of them, in columns as wide as the widest of all, each over its caption.

    columns: null makes the sheet about as wide as it is high. cell: shrinks every picture to at most this many pixels
    a side beforehand. A caption that is wider than its cell loses its middle.
    Raises: ValueError without pictures or columns, or with another number of captions.
    """
    if captions is not None and len(captions) != len(pictures):
        raise ValueError(f"{len(captions)} captions for {len(pictures)} pictures")
    if not pictures or (columns is not None and columns < 1):
        raise ValueError(f"a contact sheet needs pictures and columns, got {len(pictures)} pictures, {columns} columns")
    tiles = [picture.convert("RGB") for picture in pictures]
    if cell is not None:
        for tile in tiles:
            tile.thumbnail((cell, cell), Image.Resampling.LANCZOS)
    width, height = max(tile.width for tile in tiles), max(tile.height for tile in tiles)
    gap = max(2, round(0.015 * max(width, height)))
    if columns is None:
        columns = max(1, round(math.sqrt(len(tiles) * height / width)))
    columns = min(columns, len(tiles))
    letters = max(11, round(0.035 * max(width, height)))
    foot = 0 if captions is None else round(1.6 * sum(reach(plain_font(letters))))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) for row in rows]
    sheet = Image.new("RGB", (columns * (width + gap) + gap, sum(heights) + len(rows) * (foot + gap) + gap), _PAPER)
    pen = ImageDraw.Draw(sheet)
    texts, top = iter(captions or [""] * len(tiles)), gap
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            left, upper = gap + column * (width + gap), top + (height - tile.height) // 2
            sheet.paste(tile, (left + (width - tile.width) // 2, upper))
            font, text = _fitted(next(texts), letters, width)
            pen.text((left + width // 2, upper + tile.height + foot // 2), text, font=font, anchor="mm", fill=_CAPTION)
        top += height + foot + gap
    return sheet


def side_by_side(pictures: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Pictures of one size in a row, each under its caption."""
    width, height = pictures[0][1].size
    letters = _letters((width, height))
    gap, head = max(4, width // 100), 2 * sum(reach(plain_font(letters)))
    row = Image.new("RGB", (len(pictures) * (width + gap) - gap, height + head), _PAPER)
    pen = ImageDraw.Draw(row)
    for index, (caption, picture) in enumerate(pictures):
        left = index * (width + gap)
        row.paste(picture, (left, head))
        font, text = font_for(caption, letters)
        pen.text((left + width // 2, head // 2), text, font=font, anchor="mm", fill=_CAPTION)
    return row


@dataclass(frozen=True)
class _Mark:
    """What is drawn for one object: its frame in pixels of the enlarged picture, and its label."""

    frame: Rectangle
    text: str
    colour: Colour


def _frame(box: Sequence[float], factor: int, size: tuple[int, int]) -> Rectangle:
    """First and last column and row of a box, inside the picture."""
    width, height = size
    left, top, right, bottom = (value * factor for value in box)
    x, y = min(max(math.floor(left), 0), width - 1), min(max(math.floor(top), 0), height - 1)
    return x, y, max(x, min(math.ceil(right), width) - 1), max(y, min(math.ceil(bottom), height) - 1)


def _blend(picture: Image.Image, masks: NDArray[np.bool_], colours: Sequence[Colour]) -> Image.Image:
    """Masks, (D, h, w) bool, laid over a picture that is a whole factor larger; the first lies on top."""
    from scipy.ndimage import binary_erosion

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


def _letters(size: tuple[int, int]) -> int:
    """Height of letters in pixels."""
    return max(11, round(0.024 * math.sqrt(size[0] * size[1])))


def _fitted(text: str, size: int, width: float) -> tuple[Font, str]:
    """A font and the text, without its middle if it is too wide."""
    font, drawn = font_for(text, size)
    keep = len(drawn)
    while font.getlength(drawn) > width and keep > 3:
        keep -= 1
        font, drawn = font_for(_shortened(text, keep), size)
    return font, drawn


def _shortened(text: str, length: int) -> str:
    """A text of at most `length` letters: its start, an ellipsis and its end."""
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return f"{text[: length - 1 - tail]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - tail :]}"


def _draw(picture: Image.Image, marks: Sequence[_Mark]) -> None:
    """Draws marks, the most important one first in the list and last, so topmost, on the picture; in place."""
    pen = ImageDraw.Draw(picture, "RGBA")
    stroke, letters = _stroke(picture.size), _letters(picture.size)
    for mark in reversed(marks):
        _outline(pen, mark, stroke)
    pad = max(2, stroke)
    ascent, descent = reach(plain_font(letters))
    chips: list[tuple[Rectangle, Font, str]] = []
    for mark in marks:
        font, text = font_for(_shortened(mark.text, _LONG), letters)
        chip = (math.ceil(font.getlength(text)) + 2 * pad, ascent + descent + pad)
        chips.append((_chip_place(mark.frame, chip, picture.size, [place for place, _, _ in chips]), font, text))
    for mark, (place, font, text) in reversed(list(zip(marks, chips, strict=True))):
        if not text:
            continue
        dark = sum(weight * value for weight, value in zip((0.299, 0.587, 0.114), mark.colour, strict=True)) < 125
        pen.rounded_rectangle(place, radius=pad, fill=(*mark.colour, 235), outline=_HALO)
        start = (place[0] + pad, place[1] + pad // 2 + ascent)
        pen.text(start, text, font=font, anchor="ls", fill="white" if dark else "black")


def _outline(pen: ImageDraw.ImageDraw, mark: _Mark, stroke: int) -> None:
    """A frame whose outer edge is the box, between two dark hairlines that part it from any background."""
    left, top, right, bottom = mark.frame
    pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_HALO)
    pen.rectangle(mark.frame, outline=mark.colour, width=stroke)
    if right - left > 2 * stroke + 2 and bottom - top > 2 * stroke + 2:
        pen.rectangle((left + stroke, top + stroke, right - stroke, bottom - stroke), outline=_HALO)


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
