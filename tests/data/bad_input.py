"""Data folders with one thing wrong each, and what is said about it; the rows of docs/bad_input.md."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from codetr.data.index import CURE

WIDTH, HEIGHT = 40, 30
LOADS = "loads"
SAME = "the same"


class Folder:
    """A sound data set of two images with one box each, to be spoilt: `subject.png` is the image that rows change."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = [entry(1, "good.png"), entry(2, "subject.png")]
        self.annotations = [box(1, 1, [5, 5, 20, 10]), box(2, 2, [4, 6, 10, 20])]
        self.categories: list[dict[str, Any]] = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
        self.text: str | None = None
        (root / "images").mkdir(parents=True)
        (root / "annotations").mkdir()
        noise(1).save(root / "images/good.png")
        noise(2).save(root / "images/subject.png")

    @property
    def file(self) -> Path:
        return self.root / "annotations/instances_train.json"

    def write(self) -> None:
        content = {"images": self.images, "annotations": self.annotations, "categories": self.categories}
        self.file.write_text(json.dumps(content) if self.text is None else self.text, encoding="utf-8")

    def subject(self, name: str, content: bytes | Image.Image | None = None, **options: Any) -> None:
        """Puts another file in place of the subject."""
        (self.root / "images/subject.png").unlink()
        path = self.root / "images" / name
        self.images[1]["file_name"] = name
        if isinstance(content, Image.Image):
            content.save(path, **options)
        else:
            path.write_bytes(encoded(noise(2), "png") if content is None else content)


def entry(identity: Any, name: str, width: int = WIDTH, height: int = HEIGHT) -> dict[str, Any]:
    return {"id": identity, "file_name": name, "width": width, "height": height}


def box(identity: Any, image_id: Any, bbox: list[float], category_id: Any = 3, **more: Any) -> dict[str, Any]:
    area = bbox[2] * bbox[3]
    return {"id": identity, "image_id": image_id, "category_id": category_id, "bbox": bbox, "area": area, **more}


def noise(seed: int, size: tuple[int, int] = (HEIGHT, WIDTH), mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@dataclass(frozen=True)
class Row:
    """One kind of bad input.

    make: spoils a folder. finds: what `codetr data check` says of it, the first finding of each kind as `kind: detail`,
    or the message that it ends with; empty if it finds nothing. loads: the message that loading an image of it ends
    with, or LOADS, or SAME as the check's. Of messages the first line; those that end in ... go on, as the decoder
    says; capitals are short for what `full` has. keeps: images and annotations of the cleaned copy, which loads; None
    if there is none. masks: with data.masks.
    """

    name: str
    make: Callable[[Folder], None]
    finds: str = ""
    loads: str = LOADS
    keeps: tuple[int, int] | None = (2, 2)
    masks: bool = False


ROWS: list[Row] = []


def full(text: str) -> str:
    """A text of the table with what its capitals stand for."""
    smaller = "cut it into tiles, save it as a baseline JPEG, which is decoded at a reduced size, or raise the setting"
    for short, long in (("FILE", "DIR/annotations/instances_train.json"), ("CURE", CURE), ("SMALLER", smaller)):
        text = text.replace(short, long)
    return text


def row(
    name: str, *, finds: str = "", loads: str = LOADS, keeps: tuple[int, int] | None = (2, 2), masks: bool = False
) -> Callable[[Callable[[Folder], None]], Callable[[Folder], None]]:
    def add(make: Callable[[Folder], None]) -> Callable[[Folder], None]:
        ROWS.append(Row(name, make, full(finds), full(finds if loads == SAME else loads), keeps, masks))
        return make

    return add


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colours: int, rows: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def deep_png() -> bytes:
    """16 bits of each colour; their upper bytes are 128, 64 and 32."""
    pixel = struct.pack(">HHH", 0x8034, 0x4056, 0x2078)
    return png(WIDTH, HEIGHT, 16, 2, (b"\0" + pixel * WIDTH) * HEIGHT)


def with_size(jpeg: bytes, side: int) -> bytes:
    """A JPEG whose header states a square of another size."""
    place = next(jpeg.index(mark) for mark in (b"\xff\xc0", b"\xff\xc2") if mark in jpeg)
    return jpeg[: place + 5] + struct.pack(">HH", side, side) + jpeg[place + 9 :]


def flat_jpeg(side: int) -> bytes:
    """A grey JPEG of any size, written without its pixels: six bits a block, four blocks in three bytes."""
    small = encoded(Image.new("L", (8, 8), 128), "jpeg")
    start = with_size(small, side)
    scan = start.index(b"\xff\xda")
    length = struct.unpack(">H", start[scan + 2 : scan + 4])[0]
    blocks = (-(-side // 8)) ** 2
    return start[: scan + 2 + length] + b"\x28\xa2\x8a" * -(-blocks // 4) + b"\xff\xd9"


@row("annotation file of 0 bytes", finds="FILE: the file is empty; download or export it again", loads=SAME, keeps=None)
def annotation_file_of_0_bytes(folder: Folder) -> None:
    folder.text = ""


@row(
    "annotation file `{}`",
    finds="FILE: 'images' must be a list of objects; the keys found are nothing",
    loads=SAME,
    keeps=None,
)
def annotation_file(folder: Folder) -> None:
    folder.text = "{}"


@row(
    "annotation file cut off",
    finds="FILE:1:143: not valid JSON (Unterminated string starting at); the file may be incomplete",
    loads=SAME,
    keeps=None,
)
def annotation_file_cut_off(folder: Folder) -> None:
    folder.write()
    folder.text = folder.file.read_text()[:150]


@row(
    "annotation file is a list",
    finds=("FILE: a COCO annotation file is an object with images, annotations, categories; this is a list or a value"),
    loads=SAME,
    keeps=None,
)
def annotation_file_is_a_list(folder: Folder) -> None:
    folder.text = "[]"


@row(
    "annotation file is no text",
    finds=(
        "FILE: not a text file ('utf-8' codec can't decode byte 0x89 in position 0: invalid start byte);"
        " a COCO annotation file is JSON in UTF-8"
    ),
    loads=SAME,
    keeps=None,
)
def annotation_file_is_no_text(folder: Folder) -> None:
    folder.file.write_bytes(encoded(noise(1), "png"))
    folder.write = lambda: None  # type: ignore[method-assign]


@row("annotation file is a folder", finds="data.dir: no train annotations in DIR...", loads=SAME, keeps=None)
def annotation_file_is_a_folder(folder: Folder) -> None:
    folder.file.mkdir()
    folder.write = lambda: None  # type: ignore[method-assign]


@row("annotations nested without end", finds="FILE: no annotation file (...", loads=SAME, keeps=None)
def annotations_nested_without_end(folder: Folder) -> None:
    folder.text = "[" * 100_000


@row(
    "no images",
    finds="empty_list: 'images' is empty",
    loads="FILE: 'images' is empty; there is nothing to read",
    keeps=None,
)
def no_images(folder: Folder) -> None:
    folder.images, folder.annotations = [], []


@row(
    "no categories",
    finds="empty_list: 'categories' is empty; unknown_category: category id 3 is not in the file",
    loads="FILE: 'categories' is empty; the class names come from it",
    keeps=None,
)
def no_categories(folder: Folder) -> None:
    folder.categories = []


@row(
    "image ids as text",
    finds="text_id: id '1'",
    loads=(
        "FILE: image id 1: id must be an integer, found '1'; `codetr data check DIR --fix OUT` writes "
        "numbers for such ids"
    ),
)
def image_ids_as_text(folder: Folder) -> None:
    for image in folder.images:
        image["id"] = str(image["id"])
    for annotation in folder.annotations:
        annotation["image_id"] = str(annotation["image_id"])


@row(
    "category ids as text",
    finds="text_id: id '3'",
    loads=(
        "FILE: category id '3': id must be an integer, found '3'; `codetr data check DIR --fix OUT` "
        "writes numbers for such ids"
    ),
)
def category_ids_as_text(folder: Folder) -> None:
    for category in folder.categories:
        category["id"] = str(category["id"])
    for annotation in folder.annotations:
        annotation["category_id"] = str(annotation["category_id"])


@row(
    "an image id that is no number",
    finds=(
        "malformed_image: id must be an integer, found 'a.jpg'; malformed_annotation: image_id must be "
        "an integer, found 'a.jpg'"
    ),
    loads="FILE: image id a.jpg: id must be an integer, found 'a.jpg'; CURE",
    keeps=(1, 1),
)
def an_image_id_that_is_no_number(folder: Folder) -> None:
    folder.images[1]["id"] = "a.jpg"
    folder.annotations[1]["image_id"] = "a.jpg"


@row(
    "ids beyond 64 bits",
    finds=(
        "malformed_image: id must be an integer of at most 64 bits, found "
        "1000000000000000000000000000000; malformed_annotation: image_id must be an integer of at most "
        "64 bits, found 1000000000000000000000000000000"
    ),
    loads=(
        "FILE: image id 1000000000000000000000000000000: id must be an integer of at most 64 bits, found"
        " 1000000000000000000000000000000; CURE"
    ),
    keeps=(1, 1),
)
def ids_beyond_64_bits(folder: Folder) -> None:
    folder.images[1]["id"] = 10**30
    folder.annotations[1]["image_id"] = 10**30


@row("ids beyond 32 bits")
def ids_beyond_32_bits(folder: Folder) -> None:
    folder.images[1]["id"] = 2**62
    folder.annotations[1]["image_id"] = 2**62


@row(
    "two images with one id",
    finds="duplicate_image_id: the id of good.png too; unknown_image: image id 2 is not in the file",
    loads="FILE: image id 1: this id is used twice; CURE",
    keeps=(1, 1),
)
def two_images_with_one_id(folder: Folder) -> None:
    folder.images[1]["id"] = 1


@row(
    "two annotations with one id",
    finds="duplicate_annotation_id: used by an earlier annotation",
    loads="FILE: annotation id 1: this id is used twice; CURE",
)
def two_annotations_with_one_id(folder: Folder) -> None:
    folder.annotations[1]["id"] = 1


@row("one image file under two ids", finds="duplicate_file: the file of image id 1 too", keeps=(1, 2))
def one_image_file_under_two_ids(folder: Folder) -> None:
    folder.images[1]["file_name"] = "good.png"


@row("an annotation given twice", finds="duplicate_annotation: the same as annotation id 2")
def an_annotation_given_twice(folder: Folder) -> None:
    folder.annotations.append({**folder.annotations[1], "id": 3})


@row(
    "an annotation of an unknown image",
    finds="unknown_image: image id 9 is not in the file",
    loads="FILE: annotation id 2: image_id 9 is not among the file's images; CURE",
    keeps=(2, 1),
)
def an_annotation_of_an_unknown_image(folder: Folder) -> None:
    folder.annotations[1]["image_id"] = 9


@row(
    "an annotation of an unknown category",
    finds="unknown_category: category id 9 is not in the file",
    loads=("FILE: annotation id 2: category_id 9 is not among the file's categories (2 categories, ids 3 to 7); CURE"),
    keeps=(2, 1),
)
def an_annotation_of_an_unknown_category(folder: Folder) -> None:
    folder.annotations[1]["category_id"] = 9


@row("two categories with one name", finds="duplicate_category_name: 'cat' is category id 3 too")
def two_categories_with_one_name(folder: Folder) -> None:
    folder.categories[1]["name"] = "cat"
    folder.annotations[1]["category_id"] = 7


@row(
    "two categories with one id",
    finds="duplicate_category_id: 'dog' and 'cat'",
    loads="FILE: category id 3: this id is used twice",
)
def two_categories_with_one_id(folder: Folder) -> None:
    folder.categories[1]["id"] = 3


@row(
    "an empty category name",
    finds="malformed_category: name must be a text, found ''",
    loads="FILE: category id 7: name must be a text, found ''",
)
def an_empty_category_name(folder: Folder) -> None:
    folder.categories[1]["name"] = ""


@row("class names of any script and with markup")
def class_names_of_any_script_and_with_markup(folder: Folder) -> None:
    folder.categories[0]["name"] = "\u732b [red]<b>\x1b[31m"


@row(
    "boxes written as corners",
    finds="corner_boxes: bbox [5, 5, 25, 15]; no_area: ",
    loads=(
        "FILE: of 8 boxes 5 leave their images as [x, y, width, height], and all fit as [x1, y1, x2, "
        "y2]; `codetr data check DIR --fix OUT` writes a copy with bbox as [x, y, width, height]"
    ),
    keeps=(2, 8),
)
def boxes_written_as_corners(folder: Folder) -> None:
    folder.annotations += [box(i, 1 + i % 2, [i, i + 2, 30 + i, 20 + i]) for i in range(3, 9)]
    folder.annotations[0]["bbox"], folder.annotations[1]["bbox"] = [5, 5, 25, 15], [4, 6, 14, 26]
    for annotation in folder.annotations:
        del annotation["area"]


@row(
    "boxes written as shares of the image",
    finds="relative_boxes: bbox [0.05, 0.1, 0.5, 0.25], [x, y, width, height]",
    loads=(
        "FILE: of 7 boxes all are of 0 to 1, as shares of the image; a COCO bbox is in pixels; `codetr "
        "data check DIR --fix OUT` writes a copy with bbox as [x, y, width, height]"
    ),
    keeps=(2, 7),
)
def boxes_written_as_shares_of_the_image(folder: Folder) -> None:
    folder.annotations = [box(i, 1 + i % 2, [i / 20, 0.1, 0.5, 0.25]) for i in range(1, 8)]


@row("a box of negative width", finds="degenerate_box: bbox [20, 5, -10, 5]", keeps=(2, 1))
def a_box_of_negative_width(folder: Folder) -> None:
    folder.annotations[1]["bbox"] = [20, 5, -10, 5]


@row("a box of no height", finds="degenerate_box: bbox [20, 5, 10, 0]", keeps=(2, 1))
def a_box_of_no_height(folder: Folder) -> None:
    folder.annotations[1]["bbox"] = [20, 5, 10, 0]


@row("a box outside its image", finds="outside_box: bbox [50, 5, 10, 10] in an image of 40 x 30", keeps=(2, 1))
def a_box_outside_its_image(folder: Folder) -> None:
    folder.annotations[1]["bbox"] = [50, 5, 10, 10]


@row("a box across the border", finds="cut_box: bbox [35, 5, 10, 10] in an image of 40 x 30")
def a_box_across_the_border(folder: Folder) -> None:
    folder.annotations[1]["bbox"] = [35, 5, 10, 10]


@row(
    "NaN in a box",
    finds=("malformed_annotation: bbox must be four finite numbers [x, y, width, height], found [nan, 5, 10, 10]"),
    loads=(
        "FILE: annotation id 2: bbox must be four finite numbers [x, y, width, height], found [nan, 5, 10, 10]; CURE"
    ),
    keeps=(2, 1),
)
def nan_in_a_box(folder: Folder) -> None:
    folder.annotations[1]["bbox"] = [float("nan"), 5, 10, 10]


@row(
    "Infinity in a box",
    finds=("malformed_annotation: bbox must be four finite numbers [x, y, width, height], found [5, 5, inf, 10]"),
    loads=(
        "FILE: annotation id 2: bbox must be four finite numbers [x, y, width, height], found [5, 5, inf, 10]; CURE"
    ),
    keeps=(2, 1),
)
def infinity_in_a_box(folder: Folder) -> None:
    folder.annotations[1]["bbox"] = [5, 5, float("inf"), 10]


@row(
    "a box of three numbers",
    finds="malformed_annotation: bbox must be four finite numbers [x, y, width, height], found [5, 5, 10]",
    loads=("FILE: annotation id 2: bbox must be four finite numbers [x, y, width, height], found [5, 5, 10]; CURE"),
    keeps=(2, 1),
)
def a_box_of_three_numbers(folder: Folder) -> None:
    folder.annotations[1]["bbox"] = [5, 5, 10]


@row(
    "a box of texts",
    finds=(
        "malformed_annotation: bbox must be four finite numbers [x, y, width, height], found ['5', '5', '10', '10']"
    ),
    loads=(
        "FILE: annotation id 2: bbox must be four finite numbers [x, y, width, height], found ['5', '5',"
        " '10', '10']; CURE"
    ),
    keeps=(2, 1),
)
def a_box_of_texts(folder: Folder) -> None:
    folder.annotations[1]["bbox"] = ["5", "5", "10", "10"]


@row("NaN as area", finds="no_area: area nan")
def nan_as_area(folder: Folder) -> None:
    folder.annotations[1]["area"] = float("nan")


@row(
    "a polygon with an odd number of values",
    finds="bad_segment: a polygon has an odd number of values (5); x and y come in pairs",
    loads=(
        "FILE: image id 2: a segmentation cannot be decoded (a polygon has an odd number of values (5); "
        "x and y come in pairs); CURE"
    ),
    masks=True,
)
def a_polygon_with_an_odd_number_of_values(folder: Folder) -> None:
    folder.annotations[0]["segmentation"] = [[5, 5, 25, 5, 25, 15]]
    folder.annotations[1]["segmentation"] = [[4, 6, 14, 6, 14]]


@row(
    "a polygon of two points",
    finds="bad_segment: a polygon has 2 points; it needs at least 3",
    loads=("FILE: image id 2: a segmentation cannot be decoded (a polygon has 2 points; it needs at least 3); CURE"),
    masks=True,
)
def a_polygon_of_two_points(folder: Folder) -> None:
    folder.annotations[0]["segmentation"] = [[5, 5, 25, 5, 25, 15]]
    folder.annotations[1]["segmentation"] = [[4, 6, 14, 6]]


@row(
    "one broken polygon among sound ones",
    finds="bad_segment: a polygon has 2 points; it needs at least 3",
    loads=("FILE: image id 2: a segmentation cannot be decoded (a polygon has 2 points; it needs at least 3); CURE"),
    masks=True,
)
def one_broken_polygon_among_sound_ones(folder: Folder) -> None:
    folder.annotations[0]["segmentation"] = [[5, 5, 25, 5, 25, 15]]
    folder.annotations[1]["segmentation"] = [[4, 6, 14, 6], [4, 6, 14, 6, 14, 26]]


@row(
    "run lengths of another size",
    finds="bad_segment: it is of 40 x 30 pixels in an image of 30 x 40, height x width",
    loads=(
        "FILE: image id 2: a segmentation cannot be decoded (it is of 40 x 30 pixels in an image of 30 x"
        " 40, height x width); CURE"
    ),
    masks=True,
)
def run_lengths_of_another_size(folder: Folder) -> None:
    folder.annotations[0]["segmentation"] = [[5, 5, 25, 5, 25, 15]]
    folder.annotations[1]["segmentation"] = {"size": [40, 30], "counts": [100, 50, 1050]}


@row(
    "run lengths that add up to another size",
    finds="bad_segment: its run lengths add up to 150 pixels, not to 1200",
    loads=(
        "FILE: image id 2: a segmentation cannot be decoded (its run lengths add up to 150 pixels, not to 1200); CURE"
    ),
    masks=True,
)
def run_lengths_that_add_up_to_another_size(folder: Folder) -> None:
    folder.annotations[0]["segmentation"] = [[5, 5, 25, 5, 25, 15]]
    folder.annotations[1]["segmentation"] = {"size": [30, 40], "counts": [100, 50]}


@row(
    "compressed run lengths that are damaged",
    finds="bad_segment: its compressed run lengths hold '~'",
    loads="FILE: image id 2: a segmentation cannot be decoded (its compressed run lengths hold '~'); CURE",
    masks=True,
)
def compressed_run_lengths_that_are_damaged(folder: Folder) -> None:
    folder.annotations[0]["segmentation"] = [[5, 5, 25, 5, 25, 15]]
    folder.annotations[1]["segmentation"] = {"size": [30, 40], "counts": "~~"}


@row("a name with an accent, another script and an emoji")
def a_name_with_an_accent_another_script_and_an_emoji(folder: Folder) -> None:
    folder.subject("caf\u00e9 \u732b \U0001f600.png")


@row("a name with spaces, quotes, # and %")
def a_name_with_spaces_quotes_and(folder: Folder) -> None:
    folder.subject("a b 'c' \"d\" #1 100%20.png")


@row("a name with a line break and an escape sequence")
def a_name_with_a_line_break_and_an_escape_sequence(folder: Folder) -> None:
    folder.subject("a\n\x1b[31m.png")


@row("a name of 255 bytes")
def a_name_of_255_bytes(folder: Folder) -> None:
    folder.subject("n" * 251 + ".png")


@row(
    "a name longer than the file system takes",
    finds="missing_image: not in DIR/images",
    loads=(
        "FILE: 1 of 2 images are not in DIR/images: nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
        "nnnnnnnn...nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn.png (image id 2); name "
        "their folder with data.train.images or data.val.images, or see `codetr data check`"
    ),
    keeps=(1, 1),
)
def a_name_longer_than_the_file_system_takes(folder: Folder) -> None:
    folder.images[1]["file_name"] = "n" * 5000 + ".png"


@row(
    "an absolute name",
    finds="leaves_folder: leads out of DIR/images",
    loads="FILE: image id 2: file_name '/etc/hosts' leads out of the image folder DIR/images; CURE",
    keeps=(1, 1),
)
def an_absolute_name(folder: Folder) -> None:
    folder.images[1]["file_name"] = "/etc/hosts"


@row(
    "a name with ..",
    finds="leaves_folder: leads out of DIR/images",
    loads=(
        "FILE: image id 2: file_name '../annotations/instances_train.json' leads out of the image folder"
        " DIR/images; CURE"
    ),
    keeps=(1, 1),
)
def a_name_with(folder: Folder) -> None:
    folder.images[1]["file_name"] = "../annotations/instances_train.json"


@row(
    "a link that leads out of the folder",
    finds="leaves_folder: leads out of DIR/images",
    loads="FILE: image id 2: file_name 'subject.png' leads out of the image folder DIR/images; CURE",
    keeps=(1, 1),
)
def a_link_that_leads_out_of_the_folder(folder: Folder) -> None:
    (folder.root / "outside.png").write_bytes(encoded(noise(3), "png"))
    (folder.root / "images/subject.png").unlink()
    (folder.root / "images/subject.png").symlink_to(folder.root / "outside.png")


@row("a link within the folder")
def a_link_within_the_folder(folder: Folder) -> None:
    folder.subject("real.png")
    (folder.root / "images/subject.png").symlink_to("real.png")
    folder.images[1]["file_name"] = "subject.png"


@row(
    "a missing image",
    finds="missing_image: not in DIR/images",
    loads=(
        "FILE: 1 of 2 images are not in DIR/images: subject.png (image id 2); name their folder with "
        "data.train.images or data.val.images, or see `codetr data check`"
    ),
    keeps=(1, 1),
)
def a_missing_image(folder: Folder) -> None:
    (folder.root / "images/subject.png").unlink()


@row(
    "a folder in place of an image",
    finds="missing_image: it is a folder in DIR/images",
    loads=(
        "FILE: 1 of 2 images are not in DIR/images: subject.png (image id 2); name their folder with "
        "data.train.images or data.val.images, or see `codetr data check`"
    ),
    keeps=(1, 1),
)
def a_folder_in_place_of_an_image(folder: Folder) -> None:
    (folder.root / "images/subject.png").unlink()
    (folder.root / "images/subject.png").mkdir()


@row(
    "an image that may not be read",
    finds="bad_image: DIR/images/subject.png: cannot be read (Permission denied)",
    loads="DIR/images/subject.png: cannot be read (Permission denied)",
    keeps=(1, 1),
)
def an_image_that_may_not_be_read(folder: Folder) -> None:
    (folder.root / "images/subject.png").chmod(0)


@row(
    "an image of 0 bytes",
    finds="bad_image: DIR/images/subject.jpg: the file is empty (0 bytes)",
    loads="DIR/images/subject.jpg: the file is empty (0 bytes)",
    keeps=(1, 1),
)
def an_image_of_0_bytes(folder: Folder) -> None:
    folder.subject("subject.jpg", b"")


@row(
    "a text named .jpg",
    finds=(
        "bad_image: DIR/images/subject.jpg: not an image, or of a format that Pillow does not read; it "
        "starts with b'<html>not found<'"
    ),
    loads=(
        "DIR/images/subject.jpg: not an image, or of a format that Pillow does not read; it starts with "
        "b'<html>not found<'"
    ),
    keeps=(1, 1),
)
def a_text_named_jpg(folder: Folder) -> None:
    folder.subject("subject.jpg", b"<html>not found</html>")


@row(
    "a JPEG cut off",
    finds="bad_image: DIR/images/subject.jpg: truncated or damaged (...",
    loads="DIR/images/subject.jpg: truncated or damaged (...",
    keeps=(1, 1),
)
def a_jpeg_cut_off(folder: Folder) -> None:
    content = encoded(noise(2), "jpeg")
    folder.subject("subject.jpg", content[: len(content) // 2])


@row(
    "a PNG cut off",
    finds="bad_image: DIR/images/subject.png: truncated or damaged (...",
    loads="DIR/images/subject.png: truncated or damaged (...",
    keeps=(1, 1),
)
def a_png_cut_off(folder: Folder) -> None:
    content = encoded(noise(2), "png")
    folder.subject("subject.png", content[: len(content) // 2])


@row(
    "a PNG with damaged pixels",
    finds="bad_image: DIR/images/subject.png: truncated or damaged (...",
    loads="DIR/images/subject.png: truncated or damaged (...",
    keeps=(1, 1),
)
def a_png_with_damaged_pixels(folder: Folder) -> None:
    content = bytearray(encoded(noise(2), "png"))
    content[len(content) // 2] ^= 255
    folder.subject("subject.png", bytes(content))


@row(
    "an image of another size than stated",
    finds=("wrong_size: 60 x 20 pixels, stated 40 x 30; cut_box: bbox [4, 6, 10, 20] in an image of 60 x 20"),
    loads="DIR/images/subject.png: the file is 60 x 20 pixels, but FILE says 40 x 30 (image id 2); CURE",
)
def an_image_of_another_size_than_stated(folder: Folder) -> None:
    folder.subject("subject.png", noise(2, (20, 60)))


@row(
    "an image annotated as its EXIF orientation shows it",
    finds=(
        "turned: 30 x 40 pixels, stated 40 x 30: as its EXIF orientation 6 shows it, which is ignored here as in COCO"
    ),
    loads=(
        "DIR/images/subject.jpg: the file is 30 x 40 pixels, but FILE says 40 x 30 (image id 2); its "
        "EXIF orientation, which is ignored here as in COCO, turns it; CURE"
    ),
)
def an_image_annotated_as_its_exif_orientation_shows_it(folder: Folder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    folder.subject("subject.jpg", noise(2, (WIDTH, HEIGHT)), exif=exif)


@row("an EXIF orientation that the annotations ignore", finds="oriented: EXIF orientation 3")
def an_exif_orientation_that_the_annotations_ignore(folder: Folder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    folder.subject("subject.jpg", noise(2), exif=exif)


@row("a damaged EXIF block")
def a_damaged_exif_block(folder: Folder) -> None:
    folder.subject("subject.jpg", noise(2), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")


@row("an image of 1 x 1")
def an_image_of_1_x_1(folder: Folder) -> None:
    folder.subject("subject.png", noise(2, (1, 1)))
    folder.images[1].update(width=1, height=1)
    folder.annotations[1]["bbox"] = [0, 0, 1, 1]


@row("an image of 1 x 3000")
def an_image_of_1_x_3000(folder: Folder) -> None:
    folder.subject("subject.png", noise(2, (3000, 1)))
    folder.images[1].update(width=1, height=3000)
    folder.annotations[1]["bbox"] = [0, 6, 1, 20]


@row("a grey PNG")
def a_grey_png(folder: Folder) -> None:
    folder.subject("subject.png", noise(2, mode="L"))


@row("grey with alpha")
def grey_with_alpha(folder: Folder) -> None:
    folder.subject("subject.png", noise(2, mode="LA"))


@row("colour with alpha")
def colour_with_alpha(folder: Folder) -> None:
    folder.subject("subject.png", noise(2, mode="RGBA"))


@row("a palette")
def a_palette(folder: Folder) -> None:
    folder.subject("subject.png", noise(2, mode="P"))


@row("one bit a pixel")
def one_bit_a_pixel(folder: Folder) -> None:
    folder.subject("subject.png", noise(2, mode="1"))


@row("a palette with transparency")
def a_palette_with_transparency(folder: Folder) -> None:
    folder.subject("subject.png", noise(2, mode="P"), transparency=bytes([0, 128, 255]))


@row("16-bit grey")
def of_16_bit_grey(folder: Folder) -> None:
    folder.subject("subject.png", Image.fromarray(np.full((HEIGHT, WIDTH), 0x8034, dtype=np.uint16)))


@row("16-bit colour")
def of_16_bit_colour(folder: Folder) -> None:
    folder.subject("subject.png", deep_png())


@row("a CMYK JPEG")
def a_cmyk_jpeg(folder: Folder) -> None:
    folder.subject("subject.jpg", noise(2, mode="CMYK"))


@row(
    "floating-point pixels",
    finds=("bad_image: DIR/images/subject.tif: its pixels are floating-point numbers; save it with 8 bits a channel"),
    loads="DIR/images/subject.tif: its pixels are floating-point numbers; save it with 8 bits a channel",
    keeps=(1, 1),
)
def floating_point_pixels(folder: Folder) -> None:
    folder.subject("subject.tif", Image.fromarray(np.ones((HEIGHT, WIDTH), dtype=np.float32)))


@row("a TIFF of several pages")
def a_tiff_of_several_pages(folder: Folder) -> None:
    folder.subject("subject.tif", noise(2), save_all=True, append_images=[noise(3), noise(4)])


@row("an animated GIF")
def an_animated_gif(folder: Folder) -> None:
    folder.subject("subject.gif", noise(2), save_all=True, append_images=[noise(3), noise(4)])


@row("WebP")
def webp(folder: Folder) -> None:
    folder.subject("subject.webp", noise(2))


@row("a JPEG named .png")
def a_jpeg_named_png(folder: Folder) -> None:
    folder.subject("subject.png", encoded(noise(2), "jpeg"))


@row(
    "a PNG of 20,000 x 20,000",
    finds=(
        "too_large: DIR/images/subject.png: 20000 x 20000 pixels are more than "
        "data.max_pixels=100000000, and a PNG is decoded whole (about 4.0 GB); SMALLER"
    ),
    loads=(
        "DIR/images/subject.png: 20000 x 20000 pixels are more than data.max_pixels=100000000, and a PNG"
        " is decoded whole (about 4.0 GB); SMALLER"
    ),
)
def a_png_of_20_000_x_20_000(folder: Folder) -> None:
    folder.subject("subject.png", png(20_000, 20_000, 8, 2, b""))
    folder.images[1].update(width=20_000, height=20_000)


@row(
    "a progressive JPEG of 20,000 x 20,000",
    finds=(
        "too_large: DIR/images/subject.jpg: 20000 x 20000 pixels are more than "
        "data.max_pixels=100000000, and a progressive JPEG is decoded whole (about 4.0 GB); SMALLER"
    ),
    loads=(
        "DIR/images/subject.jpg: 20000 x 20000 pixels are more than data.max_pixels=100000000, and a "
        "progressive JPEG is decoded whole (about 4.0 GB); SMALLER"
    ),
)
def a_progressive_jpeg_of_20_000_x_20_000(folder: Folder) -> None:
    folder.subject("subject.jpg", with_size(encoded(noise(2), "jpeg", progressive=True), 20_000))
    folder.images[1].update(width=20_000, height=20_000)


@row("a JPEG of 20,000 x 20,000", finds="reduced: 20000 x 20000 pixels")
def a_jpeg_of_20_000_x_20_000(folder: Folder) -> None:
    folder.subject("subject.jpg", flat_jpeg(20_000))
    folder.images[1].update(width=20_000, height=20_000)
