from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from codetr.data.check import check_folder, check_split
from codetr.data.findings import Kind, Report
from codetr.errors import UserError

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]


def _check(root: Path, **options: Any) -> Report:
    return check_split(root / "annotations/instances_train.json", root / "images", split="train", **options)


def _errors(report: Report) -> list[tuple[Kind, int | None, int | None]]:
    found = [finding for finding in report.findings if finding.kind.level == "error"]
    return [(finding.kind, finding.image_id, finding.annotation_id) for finding in found]


def _notes(report: Report) -> list[Kind]:
    return [finding.kind for finding in report.findings if finding.kind.level == "note"]


def test_a_clean_set_has_no_findings(write_coco, entries) -> None:
    image, annotation = entries
    boxes = [annotation(1, 1, 3, [0, 0, 40, 30]), annotation(2, 1, 7, [5, 5, 5, 5], iscrowd=1)]
    report = _check(write_coco([image(1, "a.jpg")], boxes))
    assert report.findings == ()
    assert (report.count("error"), report.count("note")) == (0, 0)
    assert report.record()["counts"] == {"images": 1, "annotations": 2, "categories": 2}


@pytest.mark.parametrize(
    ("box", "kind", "detail"),
    [
        ([5, 5, 0, 4], Kind.DEGENERATE_BOX, "bbox [5, 5, 0, 4]"),
        ([5, 5, 4, -1], Kind.DEGENERATE_BOX, "bbox [5, 5, 4, -1]"),
        ([40, 5, 4, 4], Kind.OUTSIDE_BOX, "in an image of 40 x 30"),
        ([-9, 5, 4, 4], Kind.OUTSIDE_BOX, "in an image of 40 x 30"),
        ([35, 5, 6, 4], Kind.CUT_BOX, "bbox [35, 5, 6, 4] in an image of 40 x 30"),
        ([5, -1, 6, 4], Kind.CUT_BOX, "bbox [5, -1, 6, 4] in an image of 40 x 30"),
        ([1, 2, 3], Kind.MALFORMED_ANNOTATION, "four finite numbers"),
        ([1, 2, 3, float("nan")], Kind.MALFORMED_ANNOTATION, "four finite numbers"),
    ],
)
def test_boxes(write_coco, entries, box: list[float], kind: Kind, detail: str) -> None:
    image, annotation = entries
    wrong = {**annotation(77, 1, 3, [1, 1, 1, 1]), "bbox": box}
    report = _check(write_coco([image(1, "a.jpg")], [annotation(1, 1, 7, [1, 1, 5, 5]), wrong]))
    assert _errors(report) == [(kind, 1, 77)]
    (finding,) = report.of(kind)
    assert detail in finding.detail
    assert finding.annotation_id == 77
    if kind is not Kind.MALFORMED_ANNOTATION:
        assert finding.place() == "a.jpg, image id 1, annotation id 77"


def test_annotations_of_unknown_images_and_categories(write_coco, entries) -> None:
    image, annotation = entries
    boxes = [annotation(1, 9, 3, [1, 1, 5, 5]), annotation(2, 1, 4, [1, 1, 5, 5])]
    report = _check(write_coco([image(1, "a.jpg")], boxes))
    assert _errors(report) == [(Kind.UNKNOWN_IMAGE, 9, 1), (Kind.UNKNOWN_CATEGORY, 1, 2)]
    assert Kind.NO_BOXES in _notes(report)


def test_duplicates(write_coco, entries) -> None:
    image, annotation = entries
    images = [image(1, "a.jpg"), image(1, "b.jpg"), image(2, "a.jpg")]
    boxes = [
        annotation(1, 1, 3, [1, 1, 5, 5]),
        annotation(2, 1, 3, [1, 1, 5, 5]),  # again
        annotation(3, 1, 7, [1, 1, 5, 5]),  # another category
        annotation(3, 1, 7, [1, 1, 6, 5]),  # the id again
        annotation(4, 2, 7, [1, 1, 5, 5]),  # again, under the other id of the file
        annotation(5, 1, 7, [1, 1, 5, 5], iscrowd=1),  # a crowd region is something else
        annotation(6, 1, 3, [30, 20, 20, 20]),
        annotation(7, 1, 3, [30, 20, 30, 30]),  # the same inside the image
    ]
    report = _check(write_coco(images, boxes))
    assert _errors(report) == [
        (Kind.DUPLICATE_IMAGE_ID, 1, None),
        (Kind.DUPLICATE_FILE, 2, None),
        (Kind.DUPLICATE_ANNOTATION, 1, 2),
        (Kind.DUPLICATE_ANNOTATION_ID, 1, 3),
        (Kind.DUPLICATE_ANNOTATION, 2, 4),
        (Kind.CUT_BOX, 1, 6),
        (Kind.DUPLICATE_ANNOTATION, 1, 7),
    ]
    assert report.same_image == {2: 1}
    assert [finding.detail for finding in report.of(Kind.DUPLICATE_ANNOTATION)] == [
        "the same as annotation id 1",
        "the same as annotation id 3",
        "the same as annotation id 6",
    ]


def test_categories(write_coco, entries) -> None:
    image, annotation = entries
    categories = [*CATEGORIES, {"id": 7, "name": "cow"}, {"id": 9, "name": "cat"}, {"name": "x"}, {"id": 11}]
    boxes = [annotation(1, 1, 9, [1, 1, 5, 5]), annotation(2, 1, 3, [1, 1, 5, 5]), annotation(3, 1, 7, [1, 1, 5, 5])]
    report = _check(write_coco([image(1, "a.jpg")], boxes, categories=categories))
    assert [(finding.kind, finding.category_id, finding.index) for finding in report.findings[:4]] == [
        (Kind.DUPLICATE_CATEGORY_ID, 7, 2),
        (Kind.DUPLICATE_CATEGORY_NAME, 9, 3),
        (Kind.MALFORMED_CATEGORY, None, 4),
        (Kind.MALFORMED_CATEGORY, 11, 5),
    ]
    assert report.same_category == {9: 3}
    assert [finding.annotation_id for finding in report.of(Kind.DUPLICATE_ANNOTATION)] == [2]


def test_image_files(write_coco, entries) -> None:
    image, annotation = entries
    names = ["good.jpg", "cut.jpg", "text.jpg", "turned.jpg"]
    images = [image(index, name) for index, name in enumerate(names, start=1)]
    boxes = [annotation(index, index, 3 + 4 * (index % 2), [1, 1, 5, 5]) for index in range(1, 9)]
    root = write_coco(images, boxes)
    folder = root / "images"
    content = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    (folder / "text.jpg").write_text("hello")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 40)).save(folder / "turned.jpg", exif=exif)
    more = [image(5, "gone.jpg"), image(6, "../a.jpg"), image(7, ""), {**image(8, "good2.jpg"), "width": None}]
    Image.new("RGB", (40, 30)).save(folder / "good2.jpg")
    report = _check(write_coco([*images, *more], boxes, pictures=False))
    found = {finding.image_id: (finding.kind, finding.detail) for finding in report.findings}
    assert {identity: kind for identity, (kind, _) in found.items()} == {
        2: Kind.BAD_IMAGE,
        3: Kind.BAD_IMAGE,
        4: Kind.TURNED,
        5: Kind.MISSING_IMAGE,
        6: Kind.LEAVES_FOLDER,
        7: Kind.MALFORMED_IMAGE,
        8: Kind.WRONG_SIZE,
    }
    assert "truncated" in found[2][1]
    assert found[4][1].startswith("30 x 40 pixels, stated 40 x 30: as its EXIF orientation 6 shows it")
    assert found[8][1] == "40 x 30 pixels, stated None x 30"


def test_boxes_are_judged_by_the_size_of_the_file(write_coco, entries) -> None:
    image, annotation = entries
    boxes = [annotation(1, 1, 3, [0, 0, 35, 10]), annotation(2, 1, 7, [0, 0, 5, 5])]
    root = write_coco([image(1, "a.jpg")], boxes)
    Image.new("RGB", (30, 40)).save(root / "images/a.jpg")
    assert _errors(_check(root)) == [(Kind.WRONG_SIZE, 1, None), (Kind.CUT_BOX, 1, 1)]


def test_quick_reads_headers_alone(write_coco, entries) -> None:
    image, annotation = entries
    boxes = [annotation(1, 1, 3, [1, 1, 5, 5]), annotation(2, 2, 7, [1, 1, 5, 5])]
    root = write_coco([image(1, "cut.jpg"), image(2, "size.jpg")], boxes)
    content = (root / "images/cut.jpg").read_bytes()
    (root / "images/cut.jpg").write_bytes(content[:-200])
    Image.new("RGB", (9, 9)).save(root / "images/size.jpg")
    assert _errors(_check(root, decode_all=False)) == [(Kind.WRONG_SIZE, 2, None)]
    assert _errors(_check(root)) == [(Kind.BAD_IMAGE, 1, None), (Kind.WRONG_SIZE, 2, None)]


def test_notes(write_coco, entries) -> None:
    image, annotation = entries
    without_area = annotation(1, 1, 3, [1, 1, 5, 5])
    del without_area["area"]
    root = write_coco([image(1, "a.jpg"), image(2, "b.jpg"), image(3, "c.jpg")], [without_area])
    (root / "images/c.jpg").write_bytes((root / "images/a.jpg").read_bytes())
    report = _check(root)
    assert report.count("error") == 0
    assert _notes(report) == [Kind.SAME_CONTENT, Kind.NO_AREA, Kind.NO_BOXES, Kind.NO_BOXES, Kind.UNUSED_CATEGORY]
    assert report.of(Kind.SAME_CONTENT)[0].detail == "the same as a.jpg (image id 1)"


def test_two_splits_are_compared(write_coco, entries) -> None:
    image, annotation = entries
    boxes = [annotation(1, 1, 3, [1, 1, 5, 5]), annotation(2, 1, 7, [1, 1, 5, 5])]
    root = write_coco([image(1, "a.jpg")], boxes)
    write_coco([image(5, "b.jpg")], [annotation(1, 5, 3, [1, 1, 5, 5])], split="val", categories=CATEGORIES[:1])
    (root / "images/b.jpg").write_bytes((root / "images/a.jpg").read_bytes())
    train, val = check_folder(root)
    assert (train.split, val.split) == ("train", "val")
    assert train.findings == ()
    assert [(finding.kind, finding.detail) for finding in val.findings] == [
        (Kind.DIFFERENT_CATEGORIES, "id 7, 'dog': in one split only"),
        (Kind.IN_BOTH_SPLITS, "the same as image id 1 of train"),
    ]
    assert [finding.is_lasting for finding in val.findings] == [True, False]


def test_one_split_is_enough_and_none_is_an_error(write_coco, entries, tmp_path: Path) -> None:
    image, annotation = entries
    boxes = [annotation(1, 1, 3, [1, 1, 5, 5]), annotation(2, 1, 7, [1, 1, 5, 5])]
    root = write_coco([image(1, "a.jpg")], boxes, split="val")
    assert [report.split for report in check_folder(root)] == ["val"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="found there: nothing"):
        check_folder(tmp_path / "empty")


def test_progress_counts_the_images(write_coco, entries) -> None:
    image, _ = entries
    calls: list[tuple[int, int]] = []
    root = write_coco([image(1, "a.jpg"), image(2, "b.jpg")], [])
    _check(root, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


def test_the_record_is_json_without_gaps(write_coco, entries) -> None:
    image, annotation = entries
    boxes = [annotation(1, 1, 3, [1, 1, 0, 5]), annotation(2, 1, 7, [1, 1, 5, 5]), annotation(3, 1, 3, [1, 1, 5, 5])]
    record = _check(write_coco([image(1, "a.jpg")], boxes)).record()
    assert json.loads(json.dumps(record))["findings"] == [
        {
            "kind": "degenerate_box",
            "level": "error",
            "file": "a.jpg",
            "image_id": 1,
            "annotation_id": 1,
            "detail": "bbox [1, 1, 0, 5]",
        }
    ]


@pytest.mark.parametrize("name", ["bccd", "chess"])
def test_real_sets(shared: Path, name: str) -> None:
    reports = check_folder(shared / "data" / name)
    errors = [(f.kind, f.annotation_id) for report in reports for f in report.findings if f.kind.level == "error"]
    assert errors == {"bccd": [], "chess": [(Kind.DUPLICATE_ANNOTATION, 305)]}[name]


def test_checking_imports_neither_torch_nor_torchvision() -> None:
    code = "import sys, codetr.data.check, codetr.data.clean; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
